//! A chat: messages in, events out, until the answer is over.

use std::ffi::{CString, c_char, c_int, c_void};

use edge_run::{Answer, Event, Message, PowerFollower, Role, StopReason, Summary};

use crate::handles::{SESSIONS, SessionHandle};
use crate::input::{Plain, read_bytes, read_plain, read_struct, read_text, versioned, with_nul};
use crate::open::no_such;
use crate::session::{SessionCore, SessionEntry, dismiss};
use crate::status::{Failure, Outcome, Status, entry};

/// The size of a content that ends with a NUL. In the header it stands as C writes it.
///
/// cbindgen:ignore
pub const EDGE_RUN_NUL_TERMINATED: usize = usize::MAX;

/// A token was generated: `token`, its `text`, and the `bits` that were read for it.
pub const EDGE_RUN_EVENT_TOKEN: u32 = 0;
/// From the next token on, `bits` of each weight are read; `text` says why.
pub const EDGE_RUN_EVENT_PLAN: u32 = 1;
/// Something is not as it should be, and the answer goes on: `text` says what.
pub const EDGE_RUN_EVENT_WARNING: u32 = 2;
/// The answer is over: `summary`, and in `text` what was held back of the last token.
pub const EDGE_RUN_EVENT_DONE: u32 = 3;

/// The answer failed: `text` says why, and edge_run_chat returns the status. It is for who calls edge_run_chat on
/// another thread, where edge_run_last_error tells nothing.
pub const EDGE_RUN_EVENT_FAILED: u32 = 4;

/// The model ended its turn.
pub const EDGE_RUN_STOP_END_OF_TURN: u32 = 0;
/// The number of tokens asked for was reached.
pub const EDGE_RUN_STOP_LENGTH: u32 = 1;
/// The context is full.
pub const EDGE_RUN_STOP_CONTEXT_FULL: u32 = 2;
/// The callback stopped it, or edge_run_session_cancel did.
pub const EDGE_RUN_STOP_STOPPED: u32 = 3;
/// A reason that is newer than this interface.
pub const EDGE_RUN_STOP_OTHER: u32 = 4;

/// Is told one event, on the thread that called edge_run_chat. Only fields within the event's `size` are to be touched,
/// and within that of its summary. Returns 0 to go on; anything else stops the answer, and
/// EDGE_RUN_EVENT_DONE follows. It must not throw, and may call any function but those that answer with
/// EDGE_RUN_STATUS_BUSY while a chat is under way. It may wait for other threads, unless they wait for the chat to end;
/// the answer waits for it. Kinds of events that it does not know are to be passed over.
pub type EventCallback = Option<unsafe extern "C" fn(event: *const CEvent, user_data: *mut c_void) -> c_int>;

/// One turn of a conversation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CMessage {
    /// "system", "user" or "assistant"; NUL-terminated.
    pub role: *const c_char,
    /// What is said: UTF-8 of `content_size` bytes.
    pub content: *const c_char,
    /// Bytes of the content, or EDGE_RUN_NUL_TERMINATED.
    pub content_size: usize,
}

// SAFETY: pointers and a number.
unsafe impl Plain for CMessage {
    const NAME: &'static str = "edge_run_message";
    const FIRST_SIZE: usize = size_of::<CMessage>();
}

/// What is to be answered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CChatRequest {
    /// sizeof(edge_run_chat_request)
    pub size: usize,
    /// The whole conversation from its beginning. What of it has run before is not run again.
    pub messages: *const CMessage,
    /// How many there are.
    pub message_count: usize,
    /// sizeof(edge_run_message)
    pub message_size: usize,
    /// Tokens to generate at most. 0 for no bound but the context.
    pub max_tokens: u32,
    /// 0
    pub reserved: u32,
    /// Is told the events. NULL for nobody.
    pub on_event: EventCallback,
    /// Handed to `on_event`.
    pub user_data: *mut c_void,
}

/// Counts and times of an answer. Only fields within `size` are there.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CSummary {
    /// Bytes that the library filled in.
    pub size: usize,
    /// EDGE_RUN_STOP_...
    pub stop: u32,
    /// Tokens of the prompt that were run: those that had not run before.
    pub prompt_tokens: u32,
    /// Tokens generated, the one that ended the turn left out. For tokens a second, `forced_tokens` do not count.
    pub generated_tokens: u32,
    /// Bits read of each weight, over all tokens run.
    pub bits: f32,
    /// The same over the prompt.
    pub prompt_bits: f32,
    /// The same over the tokens after it; 0 where there are none.
    pub answer_bits: f32,
    /// Seconds up to the first token.
    pub prompt_s: f64,
    /// Seconds for the tokens after it.
    pub generate_s: f64,
    /// Bytes that the model takes on the device.
    pub device_bytes: u64,
    /// Bytes of the slices that can be read.
    pub slice_bytes: u64,
    /// Those of the tokens generated that a schema left no choice for, which ran together with others.
    pub forced_tokens: u32,
    /// 0
    pub reserved: u32,
}

/// An event of an answer. Only fields within `size` are there. What it points to is there until the callback returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CEvent {
    /// Bytes that the library filled in.
    pub size: usize,
    /// EDGE_RUN_EVENT_...
    pub kind: u32,
    /// The token's id.
    pub token: u32,
    /// UTF-8, NUL-terminated; never NULL. Empty in the middle of a character.
    pub text: *const c_char,
    /// Bytes of the text without its NUL, as a text may have NULs of its own.
    pub text_size: usize,
    /// Of EDGE_RUN_EVENT_DONE; else NULL.
    pub summary: *const CSummary,
    /// Bits read for the token, or to be read from here on.
    pub bits: f32,
    /// 0
    pub reserved: u32,
}

versioned!(CChatRequest = "edge_run_chat_request", CSummary = "edge_run_summary", CEvent = "edge_run_event");

/// Answers the last of the messages, and returns when the answer is over. It ends with EDGE_RUN_EVENT_DONE, or with
/// EDGE_RUN_EVENT_FAILED where it fails. A request that cannot be read and a chat that is refused with
/// EDGE_RUN_STATUS_BUSY have no event. What edge_run_session_new and edge_run_session_settle could not have is told
/// first, by EDGE_RUN_EVENT_WARNING.
///
/// EDGE_RUN_STATUS_STOPPED where a stop is asked for before the first token; after it, the answer ends with
/// EDGE_RUN_STOP_STOPPED. EDGE_RUN_STATUS_BUSY while another chat of the session is under way. After a failure the
/// tokens that were told stand, and the session can be asked again.
///
/// # Safety
///
/// `request` is NULL or points to such a struct, with as many messages of such a size, whose texts end with a NUL or
/// have as many bytes. `on_event` may be called with `user_data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_chat(session: *mut SessionHandle, request: *const CChatRequest) -> Status {
    entry(|| {
        let entry = SESSIONS.get(session, "session")?;
        // SAFETY: the caller promises the struct.
        let request = unsafe { read_struct(request) }?;
        // SAFETY: the caller promises the messages.
        let messages = unsafe { messages(&request) }?;
        if request.reserved != 0 {
            return Err(no_such("reserved", "0", request.reserved));
        }
        let listener = Listener { on_event: request.on_event, user_data: request.user_data };
        let max_new = (request.max_tokens > 0).then_some(request.max_tokens as usize);
        let told = entry.model.guarded(|| {
            entry.exclusively(|SessionCore { session, follower, faults }| {
                let answer = session.chat(&messages, max_new)?;
                if listener.tell_warnings(&std::mem::take(faults)) {
                    return listener.tell_done(&answer.stop());
                }
                tell_answer(&entry, answer, follower, &listener)
            })
        });
        // A chat that another one keeps out has not begun; the events are that one's.
        told.inspect_err(|failure| {
            if failure.status != Status::Busy {
                listener.tell_failed(&failure.message);
            }
        })
    })
}

/// Tells an answer's events, and has plans that are set meanwhile count from the next token on.
fn tell_answer(
    entry: &SessionEntry,
    mut answer: Answer<'_>,
    follower: &mut Option<Box<PowerFollower>>,
    listener: &Listener,
) -> Outcome {
    let has_routers = entry.model.model.has_routers();
    loop {
        if let Some(next) = entry.take_pending() {
            let (plan, next) = next.parts()?;
            answer.set_plan(plan)?;
            dismiss(std::mem::replace(follower, next));
        }
        if let Some(change) = follower.as_mut().and_then(|follower| follower.poll()) {
            answer.set_plan(change.decision.plan(has_routers)?)?;
        }
        if let Some(fault) = follower.as_ref().and_then(|follower| follower.take_fault())
            && listener.tell_warning(&format!("the power state cannot be read: {fault}"))
        {
            return listener.tell_done(&answer.stop());
        }
        let Some(event) = answer.next() else { return Ok(()) };
        let stops = match event? {
            Event::Token(token) => {
                let stops = listener.tell(EDGE_RUN_EVENT_TOKEN, &token.text, token.bits, token.id);
                listener.tell_warnings(&token.faults) || stops
            }
            Event::Plan(plan) => listener.tell(EDGE_RUN_EVENT_PLAN, &plan.reason, plan.bits(), 0),
            Event::Done(summary) => return listener.tell_done(&summary),
            // Newer than this interface.
            _ => false,
        };
        if stops {
            return listener.tell_done(&answer.stop());
        }
    }
}

/// Who is told the events.
struct Listener {
    on_event: EventCallback,
    user_data: *mut c_void,
}

impl Listener {
    /// Tells an event; whether the answer is to be stopped.
    fn tell(&self, kind: u32, text: &str, bits: f32, token: u32) -> bool {
        let text = with_nul(text);
        self.call(&event(kind, &text, bits, token))
    }

    fn tell_warning(&self, text: &str) -> bool {
        self.tell(EDGE_RUN_EVENT_WARNING, text, 0.0, 0)
    }

    /// Tells them all; whether the answer is to be stopped.
    fn tell_warnings(&self, texts: &[String]) -> bool {
        let mut stops = false;
        for text in texts {
            stops |= self.tell_warning(text);
        }
        stops
    }

    fn tell_failed(&self, text: &str) {
        self.tell(EDGE_RUN_EVENT_FAILED, text, 0.0, 0);
    }

    fn tell_done(&self, summary: &Summary) -> Outcome {
        let (text, told) = (with_nul(&summary.text_left), c_summary(summary));
        self.call(&CEvent { summary: &told, ..event(EDGE_RUN_EVENT_DONE, &text, summary.bits, 0) });
        Ok(())
    }

    fn call(&self, event: &CEvent) -> bool {
        // SAFETY: the caller of `edge_run_chat` lets it be called with its data; the event and what it points to
        // outlive the call.
        self.on_event.is_some_and(|on_event| unsafe { on_event(event, self.user_data) } != 0)
    }
}

fn event(kind: u32, text: &CString, bits: f32, token: u32) -> CEvent {
    let (size, text_size) = (size_of::<CEvent>(), text.as_bytes().len());
    CEvent { size, kind, token, text: text.as_ptr(), text_size, summary: std::ptr::null(), bits, reserved: 0 }
}

fn c_summary(summary: &Summary) -> CSummary {
    CSummary {
        size: size_of::<CSummary>(),
        stop: match summary.stop {
            StopReason::EndOfTurn => EDGE_RUN_STOP_END_OF_TURN,
            StopReason::Length => EDGE_RUN_STOP_LENGTH,
            StopReason::ContextFull => EDGE_RUN_STOP_CONTEXT_FULL,
            StopReason::Stopped => EDGE_RUN_STOP_STOPPED,
            _ => EDGE_RUN_STOP_OTHER,
        },
        prompt_tokens: summary.prompt_tokens as u32,
        generated_tokens: summary.generated_tokens as u32,
        bits: summary.bits,
        prompt_bits: summary.prompt_bits,
        answer_bits: summary.answer_bits.unwrap_or(0.0),
        prompt_s: summary.prompt_s,
        generate_s: summary.generate_s,
        device_bytes: summary.device_bytes,
        slice_bytes: summary.slices.map_or(0, |slices| slices.resident_bytes),
        forced_tokens: summary.forced_tokens as u32,
        reserved: 0,
    }
}

/// The messages of a request.
///
/// # Safety
///
/// As for [`edge_run_chat`].
unsafe fn messages(request: &CChatRequest) -> Outcome<Vec<Message>> {
    let (count, size) = (request.message_count, request.message_size);
    if count == 0 {
        return Err(Failure::new(Status::InvalidArgument, "messages: expected at least one, got 0"));
    }
    if request.messages.is_null() {
        return Err(Failure::null("messages"));
    }
    if count.checked_mul(size).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::new(
            Status::WrongSize,
            format!("{count} messages of {size} bytes are more than memory has"),
        ));
    }
    let read = |at: usize| {
        // SAFETY: all messages lie within the bytes that the caller promises.
        let message = unsafe { read_plain(request.messages.byte_add(at * size), size) }?;
        // SAFETY: the caller promises its texts.
        unsafe { read_message(&message) }
    };
    (0..count).map(read).collect()
}

/// # Safety
///
/// The texts of the message end with a NUL, or have as many bytes.
unsafe fn read_message(message: &CMessage) -> Outcome<Message> {
    // SAFETY: the caller promises a NUL.
    let name = unsafe { read_text(message.role, "role") }?;
    let role = match name {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        other => {
            let message = format!("role: expected one of system, user, assistant, got {other}");
            return Err(Failure::new(Status::InvalidArgument, message));
        }
    };
    let content = match message.content_size {
        // SAFETY: the caller promises a NUL.
        EDGE_RUN_NUL_TERMINATED => unsafe { read_text(message.content, "content") },
        // SAFETY: the caller promises as many bytes.
        size => unsafe { read_bytes(message.content, size, "content") },
    }?;
    Ok(Message::new(role, content))
}
