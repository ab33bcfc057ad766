// The C interface of edge-run. capi/README.md tells how to use it.
//
// Made by cbindgen from capi/src; change it there.

#ifndef EDGE_RUN_H
#define EDGE_RUN_H

#include <stddef.h>
#include <stdint.h>

// The size of a content that ends with a NUL.
#define EDGE_RUN_NUL_TERMINATED SIZE_MAX

// The version of the binary interface. It rises when a program that was compiled against an older header could not
// run with this library. Functions, constants, and fields at the end of structs come without a new version.
#define EDGE_RUN_ABI_VERSION 1

// A token was generated: `token`, its `text`, and the `bits` that were read for it.
#define EDGE_RUN_EVENT_TOKEN 0

// From the next token on, `bits` of each weight are read; `text` says why.
#define EDGE_RUN_EVENT_PLAN 1

// Something is not as it should be, and the answer goes on: `text` says what.
#define EDGE_RUN_EVENT_WARNING 2

// The answer is over: `summary`, and in `text` what was held back of the last token.
#define EDGE_RUN_EVENT_DONE 3

// The answer failed: `text` says why, and edge_run_chat returns the status. It is for who calls edge_run_chat on
// another thread, where edge_run_last_error tells nothing.
#define EDGE_RUN_EVENT_FAILED 4

// The model ended its turn.
#define EDGE_RUN_STOP_END_OF_TURN 0

// The number of tokens asked for was reached.
#define EDGE_RUN_STOP_LENGTH 1

// The context is full.
#define EDGE_RUN_STOP_CONTEXT_FULL 2

// The callback stopped it, or edge_run_session_cancel did.
#define EDGE_RUN_STOP_STOPPED 3

// A reason that is newer than this interface.
#define EDGE_RUN_STOP_OTHER 4

// The best GPU, or the processor where there is none but software renderers.
#define EDGE_RUN_DEVICE_BEST 0

// The processor.
#define EDGE_RUN_DEVICE_CPU 1

// The GPU with the number `gpu_index`.
#define EDGE_RUN_DEVICE_GPU 2

// Keys and values in f16.
#define EDGE_RUN_CACHE_F16 0

// Keys and values in codes of eight bits.
#define EDGE_RUN_CACHE_Q8 1

// Keys in codes of eight bits, values in codes of four.
#define EDGE_RUN_CACHE_Q6 2

// Keys and values in codes of four bits.
#define EDGE_RUN_CACHE_Q4 3

// 8 bits.
#define EDGE_RUN_POWER_HIGH 0

// 6 bits.
#define EDGE_RUN_POWER_BALANCED 1

// 4 bits.
#define EDGE_RUN_POWER_LOW 2

// As battery, charger, energy saver, heat and memory allow, which the library reads from the operating system.
#define EDGE_RUN_POWER_AUTO 3

// The mains.
#define EDGE_RUN_SUPPLY_AC 0

// A battery that is being discharged.
#define EDGE_RUN_SUPPLY_BATTERY 1

// Nothing is limited.
#define EDGE_RUN_THERMAL_NOMINAL 0

// Warm.
#define EDGE_RUN_THERMAL_FAIR 1

// Hot: the device slows itself down.
#define EDGE_RUN_THERMAL_SERIOUS 2

// So hot that the device must cool down.
#define EDGE_RUN_THERMAL_CRITICAL 3

// A time without limit, in milliseconds.
#define EDGE_RUN_NO_LIMIT UINT64_MAX

// What became of a call. Numbers keep their meaning; more may come.
enum edge_run_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // It was done.
  EDGE_RUN_STATUS_OK = 0,
  // The operating system refused a file or folder.
  EDGE_RUN_STATUS_IO = 1,
  // There is no model in the folder.
  EDGE_RUN_STATUS_MODEL_MISSING = 2,
  // A file is not what its header or the manifest says.
  EDGE_RUN_STATUS_DAMAGED = 3,
  // The model's chat template does not take the conversation.
  EDGE_RUN_STATUS_TEMPLATE = 4,
  // A sound file asks for something that this version does not do.
  EDGE_RUN_STATUS_UNSUPPORTED = 5,
  // A value lies outside what can be done; the text names it.
  EDGE_RUN_STATUS_INVALID_ARGUMENT = 6,
  // The conversation does not fit in the context.
  EDGE_RUN_STATUS_PROMPT_TOO_LONG = 7,
  // There is no such device.
  EDGE_RUN_STATUS_NO_SUCH_DEVICE = 8,
  // The device has no room for the context.
  EDGE_RUN_STATUS_NO_ROOM = 9,
  // The device or its driver refused or failed.
  EDGE_RUN_STATUS_DEVICE = 10,
  // The model gives no numbers.
  EDGE_RUN_STATUS_NO_NUMBERS = 11,
  // A download failed.
  EDGE_RUN_STATUS_DOWNLOAD = 12,
  // A stop was asked for before the work was done.
  EDGE_RUN_STATUS_STOPPED = 13,
  // A pointer is NULL that must not be.
  EDGE_RUN_STATUS_NULL_POINTER = 100,
  // A struct's size is none that this library knows, or fields that it does not know are not zero.
  EDGE_RUN_STATUS_WRONG_SIZE = 101,
  // A text is not UTF-8.
  EDGE_RUN_STATUS_NOT_UTF8 = 102,
  // The handle is none of this kind, or was freed.
  EDGE_RUN_STATUS_INVALID_HANDLE = 103,
  // The session is in use by another call. A session runs one chat at a time.
  EDGE_RUN_STATUS_BUSY = 104,
  // The library failed within itself. The model and its sessions answer with this from now on; free them.
  EDGE_RUN_STATUS_POISONED = 105,
  // Some other failure; the text tells which.
  EDGE_RUN_STATUS_OTHER = 106,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum edge_run_status edge_run_status;
#else
typedef int32_t edge_run_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A model that is open. Any thread may use it, and several at a time.
typedef struct edge_run_model edge_run_model;

// A conversation on a model. Any thread may use it. A call that finds it in use by another one returns
// EDGE_RUN_STATUS_BUSY; which calls these are is said there.
typedef struct edge_run_session edge_run_session;

// One turn of a conversation.
typedef struct edge_run_message {
  // "system", "user" or "assistant"; NUL-terminated.
  const char *role;
  // What is said: UTF-8 of `content_size` bytes.
  const char *content;
  // Bytes of the content, or EDGE_RUN_NUL_TERMINATED.
  size_t content_size;
} edge_run_message;

// Counts and times of an answer. Only fields within `size` are there.
typedef struct edge_run_summary {
  // Bytes that the library filled in.
  size_t size;
  // EDGE_RUN_STOP_...
  uint32_t stop;
  // Tokens of the prompt that were run: those that had not run before.
  uint32_t prompt_tokens;
  // Tokens generated, the one that ended the turn left out. For tokens a second, `forced_tokens` do not count.
  uint32_t generated_tokens;
  // Bits read of each weight, over all tokens run.
  float bits;
  // The same over the prompt.
  float prompt_bits;
  // The same over the tokens after it; 0 where there are none.
  float answer_bits;
  // Seconds up to the first token.
  double prompt_s;
  // Seconds for the tokens after it.
  double generate_s;
  // Bytes that the model takes on the device.
  uint64_t device_bytes;
  // Bytes of the slices that can be read.
  uint64_t slice_bytes;
  // Those of the tokens generated that a schema left no choice for, which ran together with others.
  uint32_t forced_tokens;
  // 0
  uint32_t reserved;
} edge_run_summary;

// An event of an answer. Only fields within `size` are there. What it points to is there until the callback returns.
typedef struct edge_run_event {
  // Bytes that the library filled in.
  size_t size;
  // EDGE_RUN_EVENT_...
  uint32_t kind;
  // The token's id.
  uint32_t token;
  // UTF-8, NUL-terminated; never NULL. Empty in the middle of a character.
  const char *text;
  // Bytes of the text without its NUL, as a text may have NULs of its own.
  size_t text_size;
  // Of EDGE_RUN_EVENT_DONE; else NULL.
  const struct edge_run_summary *summary;
  // Bits read for the token, or to be read from here on.
  float bits;
  // 0
  uint32_t reserved;
} edge_run_event;

// Is told one event, on the thread that called edge_run_chat. Only fields within the event's `size` are to be touched,
// and within that of its summary. Returns 0 to go on; anything else stops the answer, and
// EDGE_RUN_EVENT_DONE follows. It must not throw, and may call any function but those that answer with
// EDGE_RUN_STATUS_BUSY while a chat is under way. It may wait for other threads, unless they wait for the chat to end;
// the answer waits for it. Kinds of events that it does not know are to be passed over.
typedef int (*edge_run_event_callback)(const struct edge_run_event *event, void *user_data);

// What is to be answered.
typedef struct edge_run_chat_request {
  // sizeof(edge_run_chat_request)
  size_t size;
  // The whole conversation from its beginning. What of it has run before is not run again.
  const struct edge_run_message *messages;
  // How many there are.
  size_t message_count;
  // sizeof(edge_run_message)
  size_t message_size;
  // Tokens to generate at most. 0 for no bound but the context.
  uint32_t max_tokens;
  // 0
  uint32_t reserved;
  // Is told the events. NULL for nobody.
  edge_run_event_callback on_event;
  // Handed to `on_event`.
  void *user_data;
} edge_run_chat_request;

// A device. Only fields within `size` are there. The texts are NUL-terminated UTF-8 and there until the callback
// returns.
typedef struct edge_run_device_info {
  // Bytes that the library filled in.
  size_t size;
  // EDGE_RUN_DEVICE_CPU or EDGE_RUN_DEVICE_GPU.
  uint32_t device;
  // The GPU's number.
  uint32_t gpu_index;
  // The adapter's or processor's name.
  const char *name;
  // What sort of device it is, such as "discrete GPU".
  const char *kind;
  // "Vulkan", "Metal", "DX12" or "CPU".
  const char *backend;
  // Driver and version, where known.
  const char *driver;
} edge_run_device_info;

// Is told one device. Returns 0 for the next one; anything else ends the list. It must not throw, and may call any
// function.
typedef int (*edge_run_device_callback)(const struct edge_run_device_info *device, void *user_data);

// Follows the loading of a model: bytes done, and bytes in all. Returns 0 to go on; anything else stops the loading.
// It must not throw, and may call any function.
typedef int (*edge_run_progress_callback)(uint64_t done, uint64_t total, void *user_data);

// How a model is opened. Zero stands for the usual in every field but `size` and `model_folder`.
typedef struct edge_run_open_options {
  // sizeof(edge_run_open_options)
  size_t size;
  // The folder that `edge-run quantize` made; NUL-terminated.
  const char *model_folder;
  // A folder for what is found out about the device once, such as compiled pipelines; NUL-terminated. NULL for none.
  const char *cache_folder;
  // EDGE_RUN_DEVICE_...
  uint32_t device;
  // The GPU's number, for EDGE_RUN_DEVICE_GPU.
  uint32_t gpu_index;
  // Tokens of a session at most. 0 for 4096, or as many as the model was trained for.
  uint32_t context;
  // Sessions that may be open at one time. 0 for 1. Memory for all of their contexts is taken at once.
  uint32_t sessions;
  // Bytes of device memory that the model may take in all. 0 for no bound.
  uint64_t memory_budget;
  // Milliseconds without use after which slices leave the device; after as many again the base leaves too. 0 for
  // never.
  uint64_t unload_after_ms;
  // EDGE_RUN_CACHE_...: how keys and values of the context are stored.
  uint32_t cache_type;
  // 0
  uint32_t reserved;
  // Follows the loading, on the thread that opens. NULL for nobody.
  edge_run_progress_callback on_progress;
  // Handed to `on_progress`.
  void *user_data;
} edge_run_open_options;

// The power state of a device. All zero but `size` is a device on the mains about which nothing is to be said.
typedef struct edge_run_power_state {
  // sizeof(edge_run_power_state)
  size_t size;
  // EDGE_RUN_SUPPLY_...
  uint32_t supply;
  // The battery's charge, 0 to 100; a negative number where it is not known. Only on battery.
  float battery_percent;
  // Whether the system's energy saver is on: 0 or 1.
  uint32_t saver;
  // EDGE_RUN_THERMAL_...
  uint32_t thermal;
  // Part of the time in which some task waits for memory, 0 to 100.
  float memory_pressure;
  // 0
  uint32_t reserved;
} edge_run_power_state;

// Reads the power state into `state`, whose size is set and whose other fields are zero; only fields within that size
// are to be touched. Returns 0, or anything else where the state cannot be read. It is called on a thread of the
// library every three seconds, and once on the thread that asks for it. It must not throw.
//
// It may cancel, set bits, power mode or power state, and free its session. It must not chat or settle, nor wait for
// another thread that may be in a call of this library: a call that puts something in its place waits for it to
// return. An application whose callbacks run on its main thread, as those of JavaScript do, uses
// edge_run_session_push_power.
typedef int (*edge_run_power_callback)(struct edge_run_power_state *state, void *user_data);

// How tokens are chosen. Zeros are not the usual here: edge_run_get_sampler fills in what the model's makers
// recommend, and what is to be different is changed after it. It sets `size` to the bytes that it filled in, so that a
// program sets `size` again before it hands the struct back.
typedef struct edge_run_sampler {
  // sizeof(edge_run_sampler)
  size_t size;
  // Divisor of the logits; 0 takes the likeliest token.
  float temperature;
  // Likeliest tokens that stay in the draw; 0 for all.
  uint32_t top_k;
  // The likeliest tokens stay that together have this probability; 1 for all.
  float top_p;
  // Tokens stay that have at least this part of the likeliest one's probability; 0 for all.
  float min_p;
  // Divisor of the positive logits, and factor of the negative ones, of tokens seen lately: 0.01 to 100, and 1 for
  // none.
  float repeat_penalty;
  // Tokens that count as seen lately.
  uint32_t repeat_last_n;
  // Whether `seed` makes the draws repeatable: 0 or 1.
  uint32_t has_seed;
  // The seed.
  uint32_t seed;
} edge_run_sampler;

// How a session begins. Zero stands for the usual in every field but `size`.
typedef struct edge_run_session_options {
  // sizeof(edge_run_session_options)
  size_t size;
  // How tokens are chosen. NULL for what the model's makers recommend.
  const struct edge_run_sampler *sampler;
  // Bits read of each weight, 2 to 8. 0 for those of `power_mode`.
  float bits;
  // EDGE_RUN_POWER_...
  uint32_t power_mode;
} edge_run_session_options;

// What a model takes on its device.
typedef struct edge_run_model_stats {
  // sizeof(edge_run_model_stats); afterwards the bytes that the library filled in.
  size_t size;
  // Bytes on the device: weights, contexts, work space.
  uint64_t device_bytes;
  // Bytes of the slices that can be read.
  uint64_t slice_bytes;
  // Bytes of the slices that were loaded since the model was opened.
  uint64_t loaded_bytes;
  // Bytes of the slices that were freed since.
  uint64_t freed_bytes;
  // Tokens of a session at most.
  uint32_t context;
  // Sessions that may be open at one time.
  uint32_t sessions;
  // Whether the model has routers, so that any number of bits from 2 to 8 can be read: 0 or 1.
  uint32_t has_routers;
  // Whether the weights are there, or come again at the next use: 0 or 1.
  uint32_t is_loaded;
} edge_run_model_stats;

// What a session has.
typedef struct edge_run_session_stats {
  // sizeof(edge_run_session_stats); afterwards the bytes that the library filled in.
  size_t size;
  // Tokens of the conversation that have run.
  uint32_t tokens;
  // Bits that the plan asks for.
  float bits;
} edge_run_session_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the binary interface that this library has, to be compared with EDGE_RUN_ABI_VERSION of the header.
int edge_run_abi_version(void);

// The version of edge-run, such as "0.1.0": NUL-terminated, there for ever.
const char *edge_run_version(void);

// Answers the last of the messages, and returns when the answer is over. It ends with EDGE_RUN_EVENT_DONE, or with
// EDGE_RUN_EVENT_FAILED where it fails. A request that cannot be read and a chat that is refused with
// EDGE_RUN_STATUS_BUSY have no event. What edge_run_session_new and edge_run_session_settle could not have is told
// first, by EDGE_RUN_EVENT_WARNING.
//
// EDGE_RUN_STATUS_STOPPED where a stop is asked for before the first token; after it, the answer ends with
// EDGE_RUN_STOP_STOPPED. EDGE_RUN_STATUS_BUSY while another chat of the session is under way. After a failure the
// tokens that were told stand, and the session can be asked again.
//
// # Safety
//
// `request` is NULL or points to such a struct, with as many messages of such a size, whose texts end with a NUL or
// have as many bytes. `on_event` may be called with `user_data`.
edge_run_status edge_run_chat(struct edge_run_session *session,
                              const struct edge_run_chat_request *request);

// Tells `on_device` of the devices of this machine one by one, on this thread.
//
// # Safety
//
// `on_device` may be called with `user_data`.
edge_run_status edge_run_devices(edge_run_device_callback on_device, void *user_data);

// Opens a model and writes its handle to `model`: NULL where that fails. It is to be closed by edge_run_close.
//
// The 2-bit base is loaded. Slices come as sessions want them. EDGE_RUN_STATUS_STOPPED where `on_progress` stops it.
//
// # Safety
//
// `options` is NULL or points to such a struct, whose texts end with a NUL. `model` is NULL or writable.
edge_run_status edge_run_open(const struct edge_run_open_options *options,
                              struct edge_run_model **model);

// Closes a model. NULL and a handle that was closed are nothing to close. Its sessions go on, and its memory is freed
// with the last of them.
void edge_run_close(struct edge_run_model *model);

// Gives the memory of the model's weights back at once. They come again at the next use, which waits for them.
// Sessions keep their contexts, and answer as if the weights had stayed.
edge_run_status edge_run_unload(struct edge_run_model *model);

// Sets the time without use, in milliseconds, after which slices leave the device; after as long again the base leaves
// too. 0 for never.
edge_run_status edge_run_unload_after(struct edge_run_model *model,
                                      uint64_t milliseconds);

// Reads so many bits of each weight from the next token on, 2 to 8, in the middle of a chat too: 2, 4, 6 or 8, and
// anything between for a model with routers.
edge_run_status edge_run_session_set_bits(struct edge_run_session *session,
                                          float bits);

// Reads what a power mode (EDGE_RUN_POWER_...) asks for from the next token on, in the middle of a chat too.
edge_run_status edge_run_session_set_power_mode(struct edge_run_session *session, uint32_t mode);

// Lets the plan follow a power state that `callback` reads, until another plan or state takes its place or the session
// is freed. After the call that does so has returned, `callback` is not called any more. A session that does not chat
// takes a change with its next chat, edge_run_session_settle or another call that has the session for itself.
// EDGE_RUN_STATUS_INVALID_ARGUMENT where the callback fails at once.
//
// # Safety
//
// `callback` may be called with `user_data` on any thread until then.
edge_run_status edge_run_session_follow_power(struct edge_run_session *session,
                                              edge_run_power_callback callback,
                                              void *user_data);

// Lets the plan follow the power state that the application pushes: this one, from the next token on, in the middle of
// a chat too. Bits fall at once, and rise when what speaks for more has lasted for ten seconds. A session that does
// not chat is looked at by this call and by those that have the session for themselves; what falls due between them is
// taken by the next one.
//
// # Safety
//
// `state` is NULL or points to such a struct.
edge_run_status edge_run_session_push_power(struct edge_run_session *session,
                                            const struct edge_run_power_state *state);

// Writes how the model's makers recommend to choose tokens to `sampler`, whose size is to be set, and is to be set
// again before the struct is handed back.
//
// # Safety
//
// `sampler` is NULL or points to such a struct.
edge_run_status edge_run_get_sampler(struct edge_run_model *model,
                                     struct edge_run_sampler *sampler);

// Starts a session and writes its handle to `session`: NULL where that fails. It is to be freed by
// edge_run_session_free. Waits until the slices are there that it reads. It is EDGE_RUN_STATUS_OK also where some of
// them could not be had: the next chat tells which by EDGE_RUN_EVENT_WARNING, and reads what is there. `options` may
// be NULL.
//
// # Safety
//
// `options` is NULL or points to such a struct. `session` is NULL or writable.
edge_run_status edge_run_session_new(struct edge_run_model *model,
                                     const struct edge_run_session_options *options,
                                     struct edge_run_session **session);

// Frees a session. NULL and a handle that was freed are nothing to free. A chat that runs on another thread is stopped
// and returns soon after; a power callback is not called any more once this returns.
void edge_run_session_free(struct edge_run_session *session);

// Forgets the conversation. The random numbers of a seed that was given begin anew; without one they go on.
// EDGE_RUN_STATUS_BUSY while a chat is under way.
edge_run_status edge_run_session_reset(struct edge_run_session *session);

// Sets how tokens are chosen from the next one on. EDGE_RUN_STATUS_BUSY while a chat is under way.
//
// # Safety
//
// `sampler` is NULL or points to such a struct.
edge_run_status edge_run_session_set_sampler(struct edge_run_session *session,
                                             const struct edge_run_sampler *sampler);

// Sets whether the next tokens of answers are guessed by what followed the same ones before, if `on` is not 0: an
// answer that repeats parts of the conversation is faster, and no other one. At first it is so on the CPU engine.
// EDGE_RUN_STATUS_BUSY while a chat is under way.
edge_run_status edge_run_session_set_prompt_lookup(struct edge_run_session *session,
                                                   uint32_t on);

// Waits until the slices are there that the plans of all sessions read, at most so many milliseconds. Without this, a
// chat begins with what is there. It is EDGE_RUN_STATUS_OK also where the time passed before, and where some slices
// could not be had: the next chat tells which by EDGE_RUN_EVENT_WARNING. EDGE_RUN_STATUS_BUSY while a chat is under
// way.
edge_run_status edge_run_session_settle(struct edge_run_session *session,
                                        uint64_t milliseconds);

// Asks for a stop, on any thread: the chat that is under way ends soon, within a prompt too, and no chat begins until
// edge_run_session_reset_cancel.
edge_run_status edge_run_session_cancel(struct edge_run_session *session);

// Takes the request to stop back, before the next chat.
edge_run_status edge_run_session_reset_cancel(struct edge_run_session *session);

// Writes what a model takes to `stats`, whose size is to be set. It waits for the step of a chat that is under way,
// not for the chat.
//
// # Safety
//
// `stats` is NULL or points to such a struct.
edge_run_status edge_run_get_model_stats(struct edge_run_model *model,
                                         struct edge_run_model_stats *stats);

// Writes what a session has to `stats`, whose size is to be set. EDGE_RUN_STATUS_BUSY while a chat is under way.
//
// # Safety
//
// `stats` is NULL or points to such a struct.
edge_run_status edge_run_get_session_stats(struct edge_run_session *session,
                                           struct edge_run_session_stats *stats);

// Why the last call on this thread failed that did: UTF-8, NUL-terminated, empty where none did. It is there until the
// next call on this thread that fails, or the end of the thread. A call that succeeds leaves it as it is.
const char *edge_run_last_error(void);

// A status in a word or two, such as "busy"; "unknown" for a number that is none. NUL-terminated, there for ever.
const char *edge_run_status_name(int status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* EDGE_RUN_H */
