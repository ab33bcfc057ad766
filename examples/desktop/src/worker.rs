//! The thread that generates: the window sends it requests and looks at what it has come to.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use edge_run::{CancelToken, Event, LanguageModel, Message, PowerMode, PrecisionPlan, Session, Token};
use eframe::egui;

/// Tokens of the context that are kept for an answer.
const ANSWER_ROOM: usize = 512;
/// Tokens that a speed is measured over at most.
const SPEED_TOKENS: usize = 32;

/// A request of the window.
pub enum Request {
    /// Answer this.
    Ask(String),
    /// From the next token on, read so many bits.
    Bits(f32),
    /// From the next token on, read what a power mode calls for.
    Mode(PowerMode),
}

/// A token of an answer.
pub struct AnswerToken {
    /// Its text.
    pub text: String,
    /// Bits read of each weight for it.
    pub bits: f32,
}

/// A question and what there is of its answer.
pub struct Exchange {
    /// What was asked.
    pub question: String,
    /// The answer's tokens.
    pub answer: Vec<AnswerToken>,
    /// How it ended, once it has.
    pub end: Option<String>,
}

/// What the window shows.
#[derive(Default)]
pub struct Conversation {
    /// From the oldest.
    pub exchanges: Vec<Exchange>,
    /// Seconds since the start and tokens a second, of each token but the first of an answer. Tokens that were guessed
    /// right come together, so the speed is that of the last few.
    pub speed: Vec<[f64; 2]>,
    /// What is read of the weights, in words.
    pub plan: String,
    /// Bytes that the model takes on the device.
    pub device_bytes: u64,
    /// Bytes of the residual slices that are there.
    pub slice_bytes: u64,
    /// Whether an answer is under way.
    pub is_answering: bool,
    /// What went wrong last.
    pub fault: Option<String>,
}

/// The generating thread, seen from the window.
pub struct Worker {
    requests: Sender<Request>,
    conversation: Arc<Mutex<Conversation>>,
    cancel: CancelToken,
    /// The device's name.
    pub device: String,
}

impl Worker {
    /// Starts the thread, which asks for a new frame after every token.
    pub fn start(model: LanguageModel, context: egui::Context) -> Worker {
        let (requests, incoming) = channel();
        let conversation = Arc::<Mutex<Conversation>>::default();
        // A child of it stops a session; the model's own token stops all there are.
        let (cancel, device) = (model.cancel_token().clone(), model.model().device().name.clone());
        let shared = Arc::clone(&conversation);
        std::thread::spawn(move || {
            match model.session() {
                Ok(session) => {
                    let (later, start) = (VecDeque::new(), Instant::now());
                    Conversing { session, incoming, later, shared: &shared, context, start }.run()
                }
                Err(error) => {
                    drop(incoming);
                    let mut conversation = shared.lock().expect("no panic while held");
                    (conversation.fault, conversation.is_answering) = (Some(error.to_string()), false);
                    context.request_repaint();
                }
            }
        });
        Worker { requests, conversation, cancel, device }
    }

    /// Sends a question, whose answer is under way from now on, or any other request. Nothing happens where the thread
    /// has ended; it has said why.
    pub fn send(&self, request: Request) {
        let asks = matches!(request, Request::Ask(_));
        // The thread's own word, that an answer is over, comes after this one.
        let mut conversation = self.conversation();
        if self.requests.send(request).is_ok() && asks {
            conversation.is_answering = true;
        }
    }

    /// Ends the answer that is under way.
    pub fn stop(&self) {
        self.cancel.cancel();
    }

    /// What there is to show.
    pub fn conversation(&self) -> MutexGuard<'_, Conversation> {
        self.conversation.lock().expect("no panic while held")
    }
}

/// The thread's side.
struct Conversing<'a> {
    session: Session,
    incoming: Receiver<Request>,
    /// What came during an answer and waits for its end.
    later: VecDeque<Request>,
    shared: &'a Mutex<Conversation>,
    context: egui::Context,
    start: Instant,
}

impl Conversing<'_> {
    fn run(mut self) {
        let mut chat = Vec::new();
        self.show_plan();
        while let Some(request) = self.later.pop_front().or_else(|| self.incoming.recv().ok()) {
            match request {
                Request::Ask(question) => self.answer(&mut chat, question),
                other => self.replan(&other),
            }
        }
    }

    fn show(&self, change: impl FnOnce(&mut Conversation)) {
        change(&mut self.shared.lock().expect("no panic while held"));
        self.context.request_repaint();
    }

    fn show_plan(&self) {
        let (plan, model) = (words(self.session.plan()), self.session.model());
        let (device_bytes, slices) = (model.allocated_bytes(), model.slices());
        self.show(|conversation| {
            conversation.plan = plan;
            conversation.device_bytes = device_bytes;
            conversation.slice_bytes = slices.map_or(0, |slices| slices.resident_bytes);
        });
    }

    /// The plan that a request asks for; none where it asks for something else.
    fn plan(session: &Session, request: &Request) -> Option<edge_run::Result<PrecisionPlan>> {
        let has_routers = session.model().has_routers();
        match request {
            Request::Bits(bits) => Some(PrecisionPlan::for_bits(*bits, has_routers, "set by hand")),
            Request::Ask(_) | Request::Mode(PowerMode::Auto) => None,
            Request::Mode(mode) => Some(Ok(mode.plan(has_routers))),
        }
    }

    fn replan(&mut self, request: &Request) {
        let follows = matches!(request, Request::Mode(PowerMode::Auto));
        let done = match Self::plan(&self.session, request) {
            _ if follows => self.session.follow_system_power(),
            Some(plan) => plan.and_then(|plan| self.session.set_plan(plan)),
            None => Ok(()),
        };
        if let Err(error) = done {
            self.show(|conversation| conversation.fault = Some(error.to_string()));
        }
        self.show_plan();
    }

    fn answer(&mut self, chat: &mut Vec<Message>, question: String) {
        // A stop of the window counts from here on.
        self.session.model().cancel_token().reset();
        chat.push(Message::user(&question));
        self.show(|conversation| {
            conversation.exchanges.push(Exchange { question, answer: Vec::new(), end: None });
            (conversation.is_answering, conversation.fault) = (true, None);
        });
        let mut text = String::new();
        // The oldest turns leave a full context; the window shows them all the same.
        let dropped = self.session.drop_old_turns(chat, ANSWER_ROOM);
        let failed = dropped.and_then(|_| self.generate(chat, &mut text)).err();
        // What was said before a failure was said. A question without an answer is no part of the conversation.
        if failed.is_some() && text.is_empty() {
            chat.pop();
        } else {
            chat.push(Message::assistant(text));
        }
        if let Some(error) = failed {
            self.show(|conversation| conversation.fault = Some(error.to_string()));
        }
        self.show(|conversation| conversation.is_answering = false);
    }

    /// Generates an answer, and adds its text.
    fn generate(&mut self, chat: &[Message], text: &mut String) -> edge_run::Result<()> {
        let mut before = VecDeque::with_capacity(SPEED_TOKENS);
        let Conversing { session, incoming, later, shared, context, start } = self;
        let show = |change: &mut dyn FnMut(&mut Conversation)| {
            change(&mut shared.lock().expect("no panic while held"));
            context.request_repaint();
        };
        let mut answer = session.chat(chat, None)?;
        while let Some(event) = answer.next() {
            match event? {
                Event::Token(token) => {
                    *text += &token.text;
                    let speed =
                        before.front().map(|first: &Instant| before.len() as f64 / first.elapsed().as_secs_f64());
                    if before.len() == SPEED_TOKENS {
                        before.pop_front();
                    }
                    before.push_back(Instant::now());
                    let at = start.elapsed().as_secs_f64();
                    show(&mut |conversation| note(conversation, &token, speed.map(|speed| [at, speed])));
                }
                Event::Plan(plan) => show(&mut |conversation| conversation.plan = words(&plan)),
                Event::Done(summary) => {
                    *text += &summary.text_left;
                    let end = format!(
                        "{}: {} tokens at {:.2} bits in {:.1} s",
                        summary.stop, summary.generated_tokens, summary.bits, summary.generate_s
                    );
                    show(&mut |conversation| {
                        if let Some(exchange) = conversation.exchanges.last_mut() {
                            exchange.end = Some(end.clone());
                        }
                    });
                }
                _ => (),
            }
            // What the window wants changes the plan in the middle of the answer. The rest waits for its end.
            while let Ok(request) = incoming.try_recv() {
                match Self::plan(answer.session(), &request) {
                    Some(plan) => {
                        // It is the window's last word on plans.
                        later.retain(|request| matches!(request, Request::Ask(_)));
                        if let Err(error) = plan.and_then(|plan| answer.set_plan(plan)) {
                            show(&mut |conversation| conversation.fault = Some(error.to_string()));
                        }
                    }
                    None => later.push_back(request),
                }
            }
        }
        Ok(())
    }
}

/// Notes a token.
fn note(conversation: &mut Conversation, token: &Token, speed: Option<[f64; 2]>) {
    conversation.device_bytes = token.device_bytes;
    conversation.slice_bytes = token.slices.as_ref().map_or(0, |slices| slices.resident_bytes);
    conversation.speed.extend(speed);
    if let Some(exchange) = conversation.exchanges.last_mut() {
        match exchange.answer.last_mut().filter(|last| last.bits == token.bits) {
            Some(last) => last.text += &token.text,
            None => exchange.answer.push(AnswerToken { text: token.text.clone(), bits: token.bits }),
        }
    }
}

fn words(plan: &PrecisionPlan) -> String {
    format!("{:.2} bits: {}", plan.bits(), plan.reason)
}
