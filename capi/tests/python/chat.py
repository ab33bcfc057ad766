"""Uses the C interface from Python's ctypes: chat.py LIBRARY MODEL_FOLDER. Ends with the line "passed"."""

import ctypes
import sys
import threading
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_double, c_float, c_int, c_size_t, sizeof
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64
from ctypes import c_void_p as pointer

OK, INVALID_ARGUMENT, STOPPED, NULL_POINTER, WRONG_SIZE, NOT_UTF8, INVALID_HANDLE, BUSY = 0, 6, 13, 100, 101, 102, 103, 104
DEVICE_CPU, DEVICE_GPU = 1, 2
TOKEN, PLAN, WARNING, DONE = range(4)
NUL_TERMINATED = c_size_t(-1).value


def struct(*fields):
    """A struct that begins with its size."""

    class Sized(Structure):
        _fields_ = [("size", c_size_t), *fields]

        def __init__(self, **values):
            super().__init__(size=sizeof(type(self)), **values)

    return Sized


Progress = CFUNCTYPE(c_int, u64, u64, pointer)
OpenOptions = struct(
    ("model_folder", c_char_p), ("cache_folder", c_char_p), ("device", u32), ("gpu_index", u32), ("context", u32),
    ("sessions", u32), ("memory_budget", u64), ("unload_after_ms", u64), ("cache_type", u32), ("reserved", u32),
    ("on_progress", Progress), ("user_data", pointer),
)
Sampler = struct(
    ("temperature", c_float), ("top_k", u32), ("top_p", c_float), ("min_p", c_float), ("repeat_penalty", c_float),
    ("repeat_last_n", u32), ("has_seed", u32), ("seed", u32),
)
SessionOptions = struct(("sampler", POINTER(Sampler)), ("bits", c_float), ("power_mode", u32))
Summary = struct(
    ("stop", u32), ("prompt_tokens", u32), ("generated_tokens", u32), ("bits", c_float), ("prompt_bits", c_float),
    ("answer_bits", c_float), ("prompt_s", c_double), ("generate_s", c_double), ("device_bytes", u64),
    ("slice_bytes", u64),
)
Event = struct(
    ("kind", u32), ("token", u32), ("text", pointer), ("text_size", c_size_t), ("summary", POINTER(Summary)),
    ("bits", c_float), ("reserved", u32),
)
OnEvent = CFUNCTYPE(c_int, POINTER(Event), pointer)
PowerState = struct(
    ("supply", u32), ("battery_percent", c_float), ("saver", u32), ("thermal", u32), ("memory_pressure", c_float),
    ("reserved", u32),
)
ModelStats = struct(
    ("device_bytes", u64), ("slice_bytes", u64), ("loaded_bytes", u64), ("freed_bytes", u64), ("context", u32),
    ("sessions", u32), ("has_routers", u32), ("is_loaded", u32),
)


class Message(Structure):
    _fields_ = [("role", c_char_p), ("content", c_char_p), ("content_size", c_size_t)]


ChatRequest = struct(
    ("messages", POINTER(Message)), ("message_count", c_size_t), ("message_size", c_size_t), ("max_tokens", u32),
    ("reserved", u32), ("on_event", OnEvent), ("user_data", pointer),
)

lib = ctypes.CDLL(sys.argv[1])
for name in ("version", "last_error", "status_name"):
    getattr(lib, f"edge_run_{name}").restype = c_char_p
lib.edge_run_session_set_bits.argtypes = [pointer, c_float]
for name in ("close", "unload", "session_free", "session_reset", "session_cancel", "session_reset_cancel"):
    getattr(lib, f"edge_run_{name}").argtypes = [pointer]
lib.edge_run_get_model_stats.argtypes = lib.edge_run_session_push_power.argtypes = [pointer, pointer]
lib.edge_run_session_new.argtypes = [pointer, pointer, POINTER(pointer)]
lib.edge_run_chat.argtypes = [pointer, pointer]


def last_error():
    return lib.edge_run_last_error().decode()


def check(status, expected=OK):
    assert status == expected, f"{status} {lib.edge_run_status_name(status)}: {last_error()}"


def chat(session, turns, most, then=lambda token, event: 0):
    """The text, the tokens' bits, the bits of plans, and the summary; `then` is asked after each token."""
    text, bits, plans, done = bytearray(), [], [], []

    def on_event(event, _):
        event = event.contents
        if event.kind in (TOKEN, DONE):
            text.extend(ctypes.string_at(event.text, event.text_size))
        if event.kind == DONE:
            summary = event.summary.contents
            done.append((summary.stop, summary.prompt_tokens, summary.generated_tokens))
        elif event.kind == PLAN:
            plans.append(event.bits)
        elif event.kind == TOKEN:
            bits.append(event.bits)
            return then(len(bits), event)
        return 0

    messages = (Message * len(turns))(*(Message(role, content, len(content)) for role, content in turns))
    request = ChatRequest(
        messages=messages, message_count=len(turns), message_size=sizeof(Message), max_tokens=most,
        on_event=OnEvent(on_event),
    )
    status = lib.edge_run_chat(session, byref(request))
    return status, bytes(text), bits, plans, done


def main():
    folder = sys.argv[2].encode()
    assert lib.edge_run_abi_version() == 1 and lib.edge_run_version()
    model, session = pointer(), pointer()
    check(lib.edge_run_open(byref(OpenOptions(model_folder=b"nowhere")), byref(model)), 2)
    assert "no model at" in last_error() and not model
    check(lib.edge_run_open(byref(OpenOptions(model_folder=folder, device=DEVICE_CPU)), byref(model)))
    sampler = Sampler()
    check(lib.edge_run_get_sampler(model, byref(sampler)))
    sampler.temperature = 0
    options = SessionOptions(sampler=ctypes.pointer(sampler))
    check(lib.edge_run_session_new(model, byref(options), byref(session)))

    question = (b"user", b"the thin in")
    status, answer, bits, _, [(_, first, generated)] = chat(session, [question], 8)
    check(status)
    assert 0 < generated == len(bits) and set(bits) == {8.0}
    turns = [question, (b"assistant", answer), (b"user", b"7")]
    status, second, _, _, [(_, run, _)] = chat(session, turns, 8)
    check(status)
    assert run < first + 30, (run, first)

    # The tokens that the session wrote itself are forgotten at a reset, so that what is compared begins after one.
    check(lib.edge_run_session_reset(session))
    second = chat(session, turns, 8)[1]
    stats = ModelStats()
    check(lib.edge_run_unload(model))
    check(lib.edge_run_get_model_stats(model, byref(stats)))
    assert not stats.is_loaded and stats.slice_bytes == 0
    check(lib.edge_run_session_reset(session))
    assert chat(session, turns, 8)[1] == second

    def cancel(token, _):
        if token == 3:
            thread = threading.Thread(target=lib.edge_run_session_cancel, args=(session,))
            thread.start()
            thread.join()
        return 0

    status, _, bits, _, [(stop, _, _)] = chat(session, [question], 60, cancel)
    check(status)
    assert (len(bits), stop) == (3, 3)
    check(chat(session, [question], 60)[0], STOPPED)
    check(lib.edge_run_session_reset_cancel(session))

    def replan(token, _):
        if token == 3:
            check(lib.edge_run_session_set_bits(session, 2.0))
            check(lib.edge_run_session_reset(session), BUSY)
        return 0

    status, _, bits, plans, _ = chat(session, [question], 8, replan)
    check(status)
    assert plans == [2.0] and bits[0] == 8.0 and bits[-1] == 2.0, (plans, bits)
    check(lib.edge_run_session_push_power(session, byref(PowerState(supply=1, battery_percent=15.0))))
    check(lib.edge_run_session_push_power(session, byref(PowerState(supply=9))), INVALID_ARGUMENT)

    check(lib.edge_run_session_push_power(session, None), NULL_POINTER)
    check(lib.edge_run_chat(session, byref(ChatRequest())), INVALID_ARGUMENT)
    check(chat(session, [(b"user", b"\xff")], 1)[0], NOT_UTF8)
    stats.size = 3
    check(lib.edge_run_get_model_stats(model, byref(stats)), WRONG_SIZE)
    lib.edge_run_session_free(session)
    check(lib.edge_run_session_reset(session), INVALID_HANDLE)
    lib.edge_run_session_free(session)
    lib.edge_run_close(model)
    check(lib.edge_run_unload(model), INVALID_HANDLE)
    print("passed")


if __name__ == "__main__":
    main()
