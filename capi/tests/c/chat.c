// A program that uses the C interface as an application does, and then in every wrong way:
// chat MODEL_FOLDER NO_MODEL [cpu-only]. With the last argument, no driver of a GPU is loaded.
//
// It ends with 0 and the line "passed" where all was as it should be.
#include <edge_run.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                     \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, edge_run_last_error());             \
      exit(1);                                                                                               \
    }                                                                                                        \
  } while (0)

#define OK EDGE_RUN_STATUS_OK

static int cpu_only;

// What a listener has heard, and what it is to do.
struct heard {
  edge_run_session *session;
  unsigned tokens, plans, done, failed;
  size_t text_size;
  char text[4096];
  float last_bits;
  edge_run_summary summary;
  // The token after which something happens; 0 for none.
  unsigned at;
  enum { NOTHING, STOP, REPLAN, PUSH, CANCEL_ELSEWHERE, UNLOAD, FREE } what;
  edge_run_model *model;
};

static void *cancel_from_thread(void *session) {
  CHECK(edge_run_session_cancel(session) == OK);
  return NULL;
}

static void cancel_elsewhere(edge_run_session *session) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, cancel_from_thread, session) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
}

static int on_event(const edge_run_event *event, void *user_data) {
  struct heard *heard = user_data;
  CHECK(event->size == sizeof *event && event->text != NULL && strlen(event->text) <= event->text_size);
  CHECK(!heard->done);
  if (heard->text_size + event->text_size < sizeof heard->text && event->kind != EDGE_RUN_EVENT_PLAN) {
    memcpy(heard->text + heard->text_size, event->text, event->text_size);
    heard->text_size += event->text_size;
  }
  if (event->kind == EDGE_RUN_EVENT_DONE) {
    CHECK(event->summary != NULL && event->summary->size == sizeof heard->summary);
    heard->summary = *event->summary;
    heard->done = 1;
    return 0;
  }
  CHECK(event->summary == NULL);
  if (event->kind == EDGE_RUN_EVENT_FAILED) {
    CHECK(strlen(event->text) > 0);
    heard->failed++;
    return 0;
  }
  if (event->kind == EDGE_RUN_EVENT_PLAN) {
    heard->plans++;
    return 0;
  }
  CHECK(event->kind == EDGE_RUN_EVENT_TOKEN);
  heard->tokens++;
  heard->last_bits = event->bits;
  if (heard->tokens != heard->at) return 0;
  edge_run_power_state hot = {.size = sizeof hot, .thermal = EDGE_RUN_THERMAL_CRITICAL};
  edge_run_session_stats stats = {.size = sizeof stats};
  switch (heard->what) {
  case NOTHING: break;
  case STOP: return 1;
  case REPLAN:
    CHECK(edge_run_session_set_bits(heard->session, 2) == OK);
    // What needs the session for itself is refused, and the answer goes on.
    CHECK(edge_run_get_session_stats(heard->session, &stats) == EDGE_RUN_STATUS_BUSY);
    CHECK(edge_run_session_reset(heard->session) == EDGE_RUN_STATUS_BUSY);
    CHECK(edge_run_session_settle(heard->session, 0) == EDGE_RUN_STATUS_BUSY);
    CHECK(edge_run_session_set_prompt_lookup(heard->session, 1) == EDGE_RUN_STATUS_BUSY);
    break;
  case PUSH: CHECK(edge_run_session_push_power(heard->session, &hot) == OK); break;
  case CANCEL_ELSEWHERE: cancel_elsewhere(heard->session); break;
  case UNLOAD: CHECK(edge_run_unload(heard->model) == OK); break;
  case FREE: edge_run_session_free(heard->session); break;
  }
  return 0;
}

static edge_run_status chat(edge_run_session *session, const edge_run_message *messages, size_t count,
                            unsigned max_tokens, struct heard *heard) {
  heard->session = session;
  heard->tokens = heard->plans = heard->done = heard->failed = 0;
  heard->text_size = 0;
  edge_run_chat_request request = {.size = sizeof request,
                                   .messages = messages,
                                   .message_count = count,
                                   .message_size = sizeof *messages,
                                   .max_tokens = max_tokens,
                                   .on_event = on_event,
                                   .user_data = heard};
  return edge_run_chat(session, &request);
}

static int on_progress(uint64_t done, uint64_t total, void *user_data) {
  CHECK(done <= total);
  ++*(unsigned *)user_data;
  return 0;
}

static int stop_progress(uint64_t done, uint64_t total, void *user_data) {
  (void)done, (void)total, (void)user_data;
  return 1;
}

static int on_device(const edge_run_device_info *device, void *user_data) {
  CHECK(device->size == sizeof *device && *device->name && *device->kind && *device->backend && device->driver);
  *(unsigned *)user_data += device->device == EDGE_RUN_DEVICE_CPU;
  return 0;
}

static int read_power(edge_run_power_state *state, void *user_data) {
  ++*(unsigned *)user_data;
  state->supply = EDGE_RUN_SUPPLY_BATTERY;
  state->battery_percent = 60;
  return 0;
}

static int fail_power(edge_run_power_state *state, void *user_data) {
  (void)state, (void)user_data;
  return -1;
}

// Changes the plan in every way, while another thread chats.
static void *change_plans(void *session) {
  unsigned asked = 0;
  edge_run_power_state mains = {.size = sizeof mains};
  for (unsigned at = 0; at < 10; at++) {
    CHECK(edge_run_session_follow_power(session, read_power, &asked) == OK);
    CHECK(edge_run_session_push_power(session, &mains) == OK);
    CHECK(edge_run_session_push_power(session, &mains) == OK);
    CHECK(edge_run_session_set_bits(session, 8) == OK);
  }
  return NULL;
}

static edge_run_model *open_model(const char *folder, uint32_t sessions) {
  unsigned steps = 0;
  edge_run_open_options options = {.size = sizeof options,
                                   .model_folder = folder,
                                   .device = EDGE_RUN_DEVICE_CPU,
                                   .sessions = sessions,
                                   .unload_after_ms = 3600 * 1000,
                                   .on_progress = on_progress,
                                   .user_data = &steps};
  edge_run_model *model;
  CHECK(edge_run_open(&options, &model) == OK && model != NULL && steps > 0);
  return model;
}

static edge_run_session *new_session(edge_run_model *model) {
  edge_run_sampler sampler = {.size = sizeof sampler};
  CHECK(edge_run_get_sampler(model, &sampler) == OK);
  sampler.temperature = 0;
  edge_run_session_options options = {.size = sizeof options, .sampler = &sampler};
  edge_run_session *session;
  CHECK(edge_run_session_new(model, &options, &session) == OK && session != NULL);
  return session;
}

static const edge_run_message question = {"user", "the thin in", EDGE_RUN_NUL_TERMINATED};

// Two turns; what was said before is not run again.
static void use(edge_run_model *model) {
  struct heard heard = {.model = model};
  edge_run_session *session = new_session(model);
  CHECK(chat(session, &question, 1, 8, &heard) == OK);
  CHECK(heard.done && heard.tokens == heard.summary.generated_tokens && heard.tokens > 0);
  CHECK(heard.last_bits == 8 && heard.summary.bits == 8);
  unsigned first = heard.summary.prompt_tokens;
  char answer[sizeof heard.text];
  size_t answer_size = heard.text_size;
  memcpy(answer, heard.text, answer_size);
  edge_run_message turns[] = {question, {"assistant", answer, answer_size}, {"user", "7", 1}};
  CHECK(chat(session, turns, 3, 8, &heard) == OK && heard.done);
  CHECK(heard.summary.prompt_tokens < first + 30);
  edge_run_session_stats stats = {.size = sizeof stats};
  CHECK(edge_run_get_session_stats(session, &stats) == OK && stats.tokens > first && stats.bits == 8);

  // The weights leave before a turn and within one, and the text is the same. The tokens that the session wrote itself
  // are forgotten at a reset, so that what is compared begins after one.
  CHECK(edge_run_session_reset(session) == OK && chat(session, turns, 3, 8, &heard) == OK);
  char expected[sizeof heard.text];
  size_t expected_size = heard.text_size;
  memcpy(expected, heard.text, expected_size);
  edge_run_model_stats whole = {.size = sizeof whole}, small = {.size = sizeof small};
  CHECK(edge_run_get_model_stats(model, &whole) == OK && whole.is_loaded && whole.slice_bytes > 0);
  CHECK(edge_run_unload(model) == OK && edge_run_get_model_stats(model, &small) == OK);
  CHECK(!small.is_loaded && small.slice_bytes == 0 && small.device_bytes < whole.device_bytes);
  CHECK(edge_run_session_reset(session) == OK);
  heard.at = 3, heard.what = UNLOAD;
  CHECK(chat(session, turns, 3, 8, &heard) == OK);
  CHECK(heard.text_size == expected_size && memcmp(heard.text, expected, expected_size) == 0);
  CHECK(edge_run_unload_after(model, 3600 * 1000) == OK && edge_run_unload_after(model, 0) == OK);

  // Guesses change no text.
  CHECK(edge_run_session_set_prompt_lookup(session, 1) == OK && edge_run_session_reset(session) == OK);
  CHECK(chat(session, turns, 3, 8, &heard) == OK);
  CHECK(heard.text_size == expected_size && memcmp(heard.text, expected, expected_size) == 0);
  CHECK(edge_run_session_set_prompt_lookup(session, 0) == OK && edge_run_session_reset(session) == OK);

  // A stop by the callback, a stop by another thread, and one before the first token.
  heard.at = 3, heard.what = STOP;
  CHECK(chat(session, &question, 1, 60, &heard) == OK);
  CHECK(heard.tokens == 3 && heard.summary.stop == EDGE_RUN_STOP_STOPPED);
  heard.what = CANCEL_ELSEWHERE;
  CHECK(chat(session, &question, 1, 60, &heard) == OK);
  CHECK(heard.done && heard.tokens == 3 && heard.summary.stop == EDGE_RUN_STOP_STOPPED);
  CHECK(chat(session, &question, 1, 60, &heard) == EDGE_RUN_STATUS_STOPPED);
  CHECK(!heard.done && !heard.tokens && heard.failed == 1);
  CHECK(edge_run_session_reset_cancel(session) == OK);

  // Another plan in the middle of an answer: by hand, and by a pushed state.
  heard.at = 4, heard.what = REPLAN;
  CHECK(chat(session, &question, 1, 9, &heard) == OK && heard.plans == 1 && heard.last_bits == 2);
  CHECK(edge_run_session_set_power_mode(session, EDGE_RUN_POWER_HIGH) == OK);
  edge_run_power_state mains = {.size = sizeof mains};
  CHECK(edge_run_session_push_power(session, &mains) == OK);
  CHECK(edge_run_session_settle(session, EDGE_RUN_NO_LIMIT) == OK);
  heard.at = 4, heard.what = PUSH;
  CHECK(chat(session, &question, 1, 9, &heard) == OK && heard.plans == 1 && heard.last_bits < 8);

  // A state that the application is asked for, and that of the system.
  heard.what = NOTHING;
  unsigned asked = 0;
  CHECK(edge_run_session_follow_power(session, read_power, &asked) == OK && asked >= 1);
  CHECK(edge_run_session_follow_power(session, fail_power, NULL) == EDGE_RUN_STATUS_INVALID_ARGUMENT);
  CHECK(edge_run_get_session_stats(session, &stats) == OK && stats.bits < 8);
  CHECK(edge_run_session_set_power_mode(session, EDGE_RUN_POWER_AUTO) == OK);
  CHECK(edge_run_session_set_power_mode(session, EDGE_RUN_POWER_LOW) == OK);
  CHECK(edge_run_session_settle(session, 10000) == OK && edge_run_get_session_stats(session, &stats) == OK);
  CHECK(stats.bits == 4);

  // Only a call that has the session for itself keeps a chat out: no change of the plan does.
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, change_plans, session) == 0);
  for (unsigned at = 0; at < 20; at++) {
    CHECK(edge_run_session_reset(session) == OK && chat(session, &question, 1, 1, &heard) == OK && heard.done);
  }
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(edge_run_get_session_stats(session, &stats) == OK && stats.bits == 8);

  // A session that is freed in the middle of its own answer ends it.
  heard.at = 2, heard.what = FREE;
  CHECK(chat(session, &question, 1, 60, &heard) == OK && heard.tokens == 2);
  CHECK(chat(session, &question, 1, 60, &heard) == EDGE_RUN_STATUS_INVALID_HANDLE);
}

// Whether the last failure's text has these words.
static int says(const char *words) { return strstr(edge_run_last_error(), words) != NULL; }

static void misuse(edge_run_model *model, const char *folder, const char *no_model) {
  edge_run_session *session = new_session(model);
  edge_run_session *second = (edge_run_session *)1;
  struct heard heard = {0};

  CHECK(edge_run_open(NULL, &model) == EDGE_RUN_STATUS_NULL_POINTER && model == NULL);
  edge_run_open_options open = {.size = sizeof open, .model_folder = no_model, .device = EDGE_RUN_DEVICE_CPU};
  CHECK(edge_run_open(&open, NULL) == EDGE_RUN_STATUS_NULL_POINTER);
  CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_MODEL_MISSING && model == NULL && says("no model at"));
  open.model_folder = NULL;
  CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_NULL_POINTER && says("model_folder"));
  open.model_folder = "\xff\xfe";
  CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_NOT_UTF8 && says("model_folder"));
  open.model_folder = folder;
  for (size_t size = 0; size < sizeof open; size += 8) {
    open.size = size;
    CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_WRONG_SIZE);
  }
  open.size = SIZE_MAX;
  CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_WRONG_SIZE);
  open.size = sizeof open;
  open.device = 77;
  CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("77"));
  open.device = EDGE_RUN_DEVICE_GPU, open.gpu_index = 1000;
  CHECK(cpu_only || edge_run_open(&open, &model) == EDGE_RUN_STATUS_NO_SUCH_DEVICE);
  open.device = EDGE_RUN_DEVICE_CPU, open.gpu_index = 0, open.context = UINT32_MAX;
  CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("context"));
  open.context = 0, open.cache_type = 9;
  CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("cache_type"));
  open.cache_type = 0, open.on_progress = stop_progress;
  CHECK(edge_run_open(&open, &model) == EDGE_RUN_STATUS_STOPPED && model == NULL);
  // A newer program's struct is longer. What this library does not know must be zero.
  struct {
    edge_run_open_options known;
    uint64_t unknown;
  } newer = {open, 0};
  newer.known.size = sizeof newer, newer.known.on_progress = NULL;
  CHECK(edge_run_open(&newer.known, &model) == OK);
  edge_run_close(model);
  newer.unknown = 1;
  CHECK(edge_run_open(&newer.known, &model) == EDGE_RUN_STATUS_WRONG_SIZE && model == NULL);
  newer.unknown = 0, newer.known.reserved = 1;
  CHECK(edge_run_open(&newer.known, &model) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("reserved"));

  model = open_model(folder, 1);
  CHECK(edge_run_session_new(NULL, NULL, &second) == EDGE_RUN_STATUS_NULL_POINTER && second == NULL);
  CHECK(edge_run_session_new((edge_run_model *)session, NULL, &second) == EDGE_RUN_STATUS_INVALID_HANDLE);
  CHECK(edge_run_session_new((edge_run_model *)"text", NULL, &second) == EDGE_RUN_STATUS_INVALID_HANDLE);
  CHECK(edge_run_session_new(model, NULL, NULL) == EDGE_RUN_STATUS_NULL_POINTER);
  edge_run_session_options begin = {.size = sizeof begin, .bits = 9};
  CHECK(edge_run_session_new(model, &begin, &second) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("bits"));
  begin.bits = 0, begin.power_mode = 12;
  CHECK(edge_run_session_new(model, &begin, &second) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("12"));
  edge_run_session *only;
  CHECK(edge_run_session_new(model, NULL, &only) == OK);
  CHECK(edge_run_session_new(model, NULL, &second) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("at most 1 open"));

  CHECK(edge_run_chat(NULL, NULL) == EDGE_RUN_STATUS_NULL_POINTER);
  CHECK(edge_run_chat(session, NULL) == EDGE_RUN_STATUS_NULL_POINTER);
  CHECK(chat(session, NULL, 1, 1, &heard) == EDGE_RUN_STATUS_NULL_POINTER && says("messages"));
  CHECK(chat(session, &question, 0, 1, &heard) == EDGE_RUN_STATUS_INVALID_ARGUMENT);
  CHECK(chat(session, &question, SIZE_MAX, 1, &heard) == EDGE_RUN_STATUS_WRONG_SIZE);
  edge_run_chat_request request = {
      .size = sizeof request, .messages = &question, .message_count = 1, .message_size = 8};
  CHECK(edge_run_chat(session, &request) == EDGE_RUN_STATUS_WRONG_SIZE && says("edge_run_message"));
  edge_run_message odd[] = {{"nobody", "x", 1}, {NULL, "x", 1}, {"user", NULL, 1}, {"user", "\xff", 1}, {"\xff", "", 0}};
  const edge_run_status expected[] = {EDGE_RUN_STATUS_INVALID_ARGUMENT, EDGE_RUN_STATUS_NULL_POINTER,
                                      EDGE_RUN_STATUS_NULL_POINTER, EDGE_RUN_STATUS_NOT_UTF8, EDGE_RUN_STATUS_NOT_UTF8};
  for (size_t at = 0; at < sizeof odd / sizeof *odd; at++) CHECK(chat(session, &odd[at], 1, 1, &heard) == expected[at]);
  char *much = malloc(100000);
  memset(much, 'a', 100000);
  edge_run_message longer = {"user", much, 100000};
  CHECK(chat(session, &longer, 1, 1, &heard) == EDGE_RUN_STATUS_PROMPT_TOO_LONG);
  free(much);
  // Without a listener, and with a text that has a NUL.
  edge_run_message nul = {"user", "a\0b", 3};
  request.messages = &nul, request.message_size = sizeof nul, request.max_tokens = 2;
  CHECK(edge_run_chat(session, &request) == OK);
  request.reserved = 1;
  CHECK(edge_run_chat(session, &request) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("reserved"));

  CHECK(edge_run_session_set_bits(session, 1) == EDGE_RUN_STATUS_INVALID_ARGUMENT);
  CHECK(edge_run_session_set_power_mode(session, 99) == EDGE_RUN_STATUS_INVALID_ARGUMENT);
  CHECK(edge_run_session_follow_power(session, NULL, NULL) == EDGE_RUN_STATUS_NULL_POINTER);
  edge_run_power_state state = {.size = sizeof state, .supply = 5};
  CHECK(edge_run_session_push_power(session, &state) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("supply"));
  state.supply = EDGE_RUN_SUPPLY_BATTERY, state.battery_percent = 101;
  CHECK(edge_run_session_push_power(session, &state) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("101"));
  state.battery_percent = 50, state.thermal = 4;
  CHECK(edge_run_session_push_power(session, &state) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("thermal"));
  state.thermal = EDGE_RUN_THERMAL_NOMINAL, state.reserved = 1;
  CHECK(edge_run_session_push_power(session, &state) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("reserved"));
  CHECK(edge_run_session_push_power(session, NULL) == EDGE_RUN_STATUS_NULL_POINTER);
  edge_run_sampler sampler = {.size = sizeof sampler, .temperature = -1};
  CHECK(edge_run_session_set_sampler(session, &sampler) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("temperature"));
  sampler.temperature = 1, sampler.repeat_penalty = 1e-40f;
  CHECK(edge_run_session_set_sampler(session, &sampler) == EDGE_RUN_STATUS_INVALID_ARGUMENT && says("0.01 to 100"));
  CHECK(edge_run_session_set_sampler(session, NULL) == EDGE_RUN_STATUS_NULL_POINTER);
  sampler.size = 3;
  CHECK(edge_run_get_sampler(model, &sampler) == EDGE_RUN_STATUS_WRONG_SIZE);
  CHECK(edge_run_get_model_stats(model, NULL) == EDGE_RUN_STATUS_NULL_POINTER);
  CHECK(edge_run_devices(NULL, NULL) == EDGE_RUN_STATUS_NULL_POINTER);

  // A session outlives its model's handle, and what was freed is no handle any more.
  edge_run_close(model);
  CHECK(edge_run_unload(model) == EDGE_RUN_STATUS_INVALID_HANDLE);
  edge_run_close(model);
  CHECK(chat(only, &question, 1, 2, &heard) == OK && heard.tokens > 0);
  edge_run_session_free(only);
  edge_run_session_free(only);
  CHECK(edge_run_session_cancel(only) == EDGE_RUN_STATUS_INVALID_HANDLE);
  edge_run_session_free(session);
  edge_run_close(NULL);
  edge_run_session_free(NULL);
  CHECK(edge_run_session_cancel(NULL) == EDGE_RUN_STATUS_NULL_POINTER);
}

int main(int count, char **arguments) {
  CHECK(count == 3 || count == 4);
  cpu_only = count == 4;
  CHECK(edge_run_abi_version() == EDGE_RUN_ABI_VERSION && strlen(edge_run_version()) > 0);
  CHECK(strcmp(edge_run_last_error(), "") == 0);
  CHECK(strcmp(edge_run_status_name(EDGE_RUN_STATUS_BUSY), "busy") == 0);
  CHECK(strcmp(edge_run_status_name(12345), "unknown") == 0);
  unsigned processors = 0;
  CHECK(cpu_only || (edge_run_devices(on_device, &processors) == OK && processors == 1));
  edge_run_model *model = open_model(arguments[1], 2);
  use(model);
  misuse(model, arguments[1], arguments[2]);
  edge_run_close(model);
  printf("passed\n");
  return 0;
}
