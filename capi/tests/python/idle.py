"""Measures what an unload brings and costs: idle.py LIBRARY MODEL_FOLDER [cpu | GPU_NUMBER]."""

import sys
import time
from ctypes import byref, c_void_p

from chat import (
    DEVICE_CPU, DEVICE_GPU, ModelStats, OpenOptions, Sampler, SessionOptions, chat, check, ctypes, lib,
)

QUESTION = (b"user", b"Name three rivers.")


def timed(call):
    """What a call returns, and its seconds."""
    begin = time.monotonic()
    result = call()
    return result, time.monotonic() - begin


def first_token(session):
    """Seconds up to the first token of an answer without a context, and the answer's text."""
    begin, first = time.monotonic(), []

    def note(token, _):
        if token == 1:
            first.append(time.monotonic() - begin)
        return 0

    check(lib.edge_run_session_reset(session))
    status, text, *_ = chat(session, [QUESTION], 4, note)
    check(status)
    return first[0], text


def mebibytes(model):
    stats = ModelStats()
    check(lib.edge_run_get_model_stats(model, byref(stats)))
    return stats.device_bytes / (1 << 20)


def measure(folder, device):
    place = {"device": DEVICE_CPU} if device == "cpu" else {"device": DEVICE_GPU, "gpu_index": int(device)}
    model, session = c_void_p(), c_void_p()
    status, opened = timed(lambda: lib.edge_run_open(byref(OpenOptions(model_folder=folder, **place)), byref(model)))
    check(status)
    sampler = Sampler()
    check(lib.edge_run_get_sampler(model, byref(sampler)))
    sampler.temperature = 0
    options = SessionOptions(sampler=ctypes.pointer(sampler))
    status, slices = timed(lambda: lib.edge_run_session_new(model, byref(options), byref(session)))
    check(status)
    first_token(session)
    warm, expected = first_token(session)
    before = mebibytes(model)
    check(lib.edge_run_unload(model))
    after = mebibytes(model)
    cold, found = first_token(session)
    assert found == expected
    lib.edge_run_session_free(session)
    lib.edge_run_close(model)
    print(
        f"opened in {opened:.2f} s, its slices in {slices:.2f} s; first token {warm:.2f} s, after an unload {cold:.2f} s; "
        f"{before:.0f} MiB, unloaded {after:.0f} MiB"
    )


for _ in range(3):
    measure(sys.argv[2].encode(), sys.argv[3] if len(sys.argv) > 3 else "cpu")
