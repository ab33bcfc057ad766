//! Requests to the hub: redirects, the access token, what a refusal means, and trying again.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::{HubEvent, HubOptions, OnEvent};
use crate::error::{Error, Result, shortened};

/// Redirects that are followed from one to the next.
const REDIRECTS_MAX: usize = 10;
/// Failures in a row after which a request is given up.
const TRIES: u32 = 6;
/// Longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);
/// Time in which a connection must stand.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// How often a wait looks whether a stop was asked for.
const GLANCE: Duration = Duration::from_millis(100);
/// Bytes of a piece of a body at most.
const PIECE_BYTES: usize = 256 << 10;
/// Bytes of a text that is no file at most.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Why a request did not bring what it should.
#[derive(Debug)]
pub(super) enum HttpFault {
    /// Another try would end in the same way.
    Lasting(Error),
    /// Another try may help, after the time that the server asks for.
    Passing { message: String, wait: Option<Duration> },
}

/// What a try brings, or why it did not.
pub(super) type Attempt<T> = std::result::Result<T, HttpFault>;

impl From<Error> for HttpFault {
    fn from(error: Error) -> HttpFault {
        HttpFault::Lasting(error)
    }
}

/// The connection to one hub.
#[derive(Debug)]
pub(super) struct HubClient {
    agent: Agent,
    origin: String,
    token: Option<String>,
    first_wait: Duration,
}

/// The tries of one request.
#[derive(Debug)]
pub(super) struct Tries {
    failures: u32,
    first_wait: Duration,
}

impl HubClient {
    /// Connects to nothing yet.
    pub fn new(options: &HubOptions) -> Result<HubClient> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("edge-run/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT_TIME))
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_recv_response(Some(options.patience))
            .timeout_per_read(Some(options.patience))
            // The system's certificates, so that a company's own proxy is trusted where the system trusts it.
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build());
        if !options.proxies {
            config = config.proxy(None);
        }
        let expected = "an address such as https://huggingface.co";
        let origin = origin(&options.endpoint).ok_or_else(|| {
            Error::argument("the hub's address (HF_ENDPOINT)", expected, format!("`{}`", options.endpoint))
        })?;
        let token = options.token.clone();
        let fits = |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.as_ref().is_some_and(|token| !fits(token)) {
            // The token itself is a secret.
            return Err(Error::argument("the access token (HF_TOKEN)", "letters and digits", "other characters"));
        }
        Ok(HubClient { agent: config.build().new_agent(), origin, token, first_wait: options.first_wait })
    }

    /// A request's tries, none of them made.
    pub fn tries(&self) -> Tries {
        Tries { failures: 0, first_wait: self.first_wait }
    }

    /// The text at `url`, tried again as often as may help.
    pub fn text(&self, url: &str, on_event: OnEvent) -> Result<String> {
        let mut tries = self.tries();
        loop {
            let fault = match self.text_once(url, on_event) {
                Ok(text) => return Ok(text),
                Err(fault) => fault,
            };
            tries.again(url, fault, on_event)?;
        }
    }

    fn text_once(&self, url: &str, on_event: OnEvent) -> Attempt<String> {
        let response = self.get(url, 0, on_event)?;
        let pieces = pieces(response.into_body())?;
        let mut bytes = Vec::new();
        while let Some(piece) = next_piece(&pieces, on_event)? {
            bytes.extend(piece);
            if bytes.len() as u64 > TEXT_BYTES_MAX {
                let expected = format!("at most {} MiB", TEXT_BYTES_MAX >> 20);
                return Err(Error::damaged(url, "length", expected, "more").into());
            }
        }
        String::from_utf8(bytes).map_err(|_| Error::damaged(url, "text", "UTF-8", "other bytes").into())
    }

    /// The answer to one request for `url` from byte `from` on, redirects followed: one of the statuses 200, 206 and,
    /// where the file has no such byte, 416.
    pub fn get(&self, url: &str, from: u64, on_event: OnEvent) -> Attempt<Response<Body>> {
        let mut at = url.to_string();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.get_once(&at, from, on_event)?;
            match response.status().as_u16() {
                200 | 206 => return Ok(response),
                416 if from > 0 => return Ok(response),
                301 | 302 | 303 | 307 | 308 => at = redirected(url, &at, response.headers())?,
                status => return Err(self.refusal(url, status, response.headers())),
            }
        }
        Err(failed(url, format!("more than {REDIRECTS_MAX} redirects")).into())
    }

    fn get_once(&self, url: &str, from: u64, on_event: OnEvent) -> Attempt<Response<Body>> {
        let mut request = self.agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        // Nobody but the hub itself gets the token, and nobody who could listen on the way.
        let may_have = origin(url).as_ref() == Some(&self.origin) && is_private(&self.origin);
        if let Some(token) = self.token.as_ref().filter(|_| may_have) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        // On a thread of its own, as a connection that hangs must not keep a stop waiting.
        let (done, answer) = sync_channel(1);
        let work = move || drop(done.send(request.call()));
        std::thread::Builder::new().name("hub".into()).spawn(work).map_err(Error::io("start", "a thread"))?;
        let answer = receive(&answer, on_event)?.expect("the request ends with an answer");
        answer.map_err(|fault| fault_of(url, fault))
    }

    /// What a status that is no success means.
    fn refusal(&self, url: &str, status: u16, headers: &HeaderMap) -> HttpFault {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (code, said) = (text("x-error-code"), shortened(text("x-error-message")));
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        match status {
            408 | 429 | 500 | 502 | 503 | 504 => {
                let what = if status == 429 { "too many requests: " } else { "" };
                let message = format!("{what}the server answers {status}{said}");
                HttpFault::Passing { message, wait: asked_wait(headers) }
            }
            401 | 403 => {
                let token = match (&self.token, code) {
                    (_, "GatedRepo") => {
                        "this model is gated: accept its conditions on its page, with the account of \
                        the token in HF_TOKEN"
                    }
                    (None, _) => {
                        "there is no such repository, or it is private or gated: check the name, or set \
                        HF_TOKEN to an access token that may read it"
                    }
                    (Some(_), _) => {
                        "there is no such repository, or the access token may not read it: check the \
                        name, and the token in HF_TOKEN or in the hub's token file"
                    }
                };
                failed(url, format!("{token}; the server answers {status}{said}")).into()
            }
            404 => failed(url, format!("there is no such repository, revision or file{said}")).into(),
            _ => failed(url, format!("the server answers {status}{said}")).into(),
        }
    }
}

impl Tries {
    /// Waits before another try after `fault`, or fails where there is none: after six failures in a row.
    pub fn again(&mut self, url: &str, fault: HttpFault, on_event: OnEvent) -> Result<()> {
        let (message, asked) = match fault {
            HttpFault::Lasting(error) => return Err(error),
            HttpFault::Passing { message, wait } => (message, wait),
        };
        self.failures += 1;
        if self.failures == TRIES {
            return Err(failed(url, format!("{message}; tried {TRIES} times")));
        }
        let wait = asked.unwrap_or(self.first_wait * 2u32.pow(self.failures - 1));
        if wait > LONGEST_WAIT {
            return Err(failed(url, format!("{message}; it asks for a wait of {} s", wait.as_secs())));
        }
        let note = format!("{message}; another try in {} s", wait.as_secs_f32().ceil());
        go_on(on_event, HubEvent::Note(&note))?;
        let end = std::time::Instant::now() + wait;
        while let Some(left) = end.checked_duration_since(std::time::Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(GLANCE));
            go_on(on_event, HubEvent::Waiting)?;
        }
        Ok(())
    }

    /// Forgets the failures: the last try brought something.
    pub fn came_on(&mut self) {
        self.failures = 0;
    }
}

/// Tells an event; fails where a stop is asked for.
pub(super) fn go_on(on_event: OnEvent, event: HubEvent) -> Result<()> {
    if on_event(event).is_break() { Err(Error::Stopped("pull")) } else { Ok(()) }
}

/// The pieces of a body, read on a thread of their own; the thread ends when nobody receives them any more.
pub(super) fn pieces(body: Body) -> Result<Receiver<io::Result<Vec<u8>>>> {
    let (done, pieces) = sync_channel(4);
    let mut reader = body.into_reader();
    let work = move || {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = reader.read(&mut piece).map(|length| {
                piece.truncate(length);
                piece
            });
            let last = read.as_ref().map_or(true, Vec::is_empty);
            if done.send(read).is_err() || last {
                return;
            }
        }
    };
    std::thread::Builder::new().name("hub".into()).spawn(work).map_err(Error::io("start", "a thread"))?;
    Ok(pieces)
}

/// The next piece of a body, `None` at its end.
pub(super) fn next_piece(pieces: &Receiver<io::Result<Vec<u8>>>, on_event: OnEvent) -> Attempt<Option<Vec<u8>>> {
    match receive(pieces, on_event)? {
        Some(Ok(piece)) if piece.is_empty() => Ok(None),
        Some(Ok(piece)) => Ok(Some(piece)),
        Some(Err(fault)) => Err(HttpFault::Passing { message: format!("the connection broke: {fault}"), wait: None }),
        None => Ok(None),
    }
}

/// What a thread sends, `None` where it sends no more; fails where a stop is asked for meanwhile.
fn receive<T>(from: &Receiver<T>, on_event: OnEvent) -> Result<Option<T>> {
    loop {
        match from.recv_timeout(GLANCE) {
            Ok(received) => return Ok(Some(received)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => go_on(on_event, HubEvent::Waiting)?,
        }
    }
}

/// An error about `url`.
pub(super) fn failed(url: &str, message: impl Into<String>) -> Error {
    Error::Download { url: url.to_string(), message: message.into() }
}

fn fault_of(url: &str, fault: ureq::Error) -> HttpFault {
    use ureq::Error::*;

    match fault {
        HostNotFound => failed(url, "the host's name is not known; is this machine on the network?").into(),
        // A certificate that is not trusted comes as data that is not valid.
        Io(fault) if fault.kind() == io::ErrorKind::InvalidData => {
            failed(url, format!("no safe connection: {fault}")).into()
        }
        Io(_) | Timeout(_) | ConnectionFailed | Protocol(_) => {
            HttpFault::Passing { message: format!("no answer: {fault}"), wait: None }
        }
        other => failed(url, other.to_string()).into(),
    }
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!("{scheme}://{}:{port}", uri.host()?.to_ascii_lowercase()))
}

/// Whether what is sent there cannot be read on the way.
fn is_private(origin: &str) -> bool {
    ["https://", "http://127.0.0.1:", "http://localhost:", "http://[::1]:"]
        .iter()
        .any(|start| origin.starts_with(start))
}

/// The address that the answer from `at` points to, of the request for `url`.
fn redirected(url: &str, at: &str, headers: &HeaderMap) -> Result<String> {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| failed(url, "a redirect without an address"))?;
    let (scheme, rest) = at.split_once("://").expect("what was asked has a scheme");
    let to = if let Some(host) = location.strip_prefix("//") {
        format!("{scheme}://{host}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", rest.split(['/', '?', '#']).next().unwrap_or(rest))
    } else {
        location.to_string()
    };
    let safe = origin(&to).is_some_and(|to| scheme != "https" || to.starts_with("https:"));
    if safe { Ok(to) } else { Err(failed(url, format!("a redirect to `{}`", shortened(location)))) }
}

/// The wait that an answer asks for: in Retry-After as seconds or as a date, or until the hub's window of requests
/// ends.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let seconds = |text: &str| text.trim().parse().ok().map(Duration::from_secs);
    if let Some(asked) = text("retry-after") {
        let until = || {
            let date = jiff::fmt::rfc2822::parse(asked).ok()?.timestamp();
            SystemTime::from(date).duration_since(SystemTime::now()).ok().or(Some(Duration::ZERO))
        };
        return seconds(asked).or_else(until);
    }
    text("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t=")).and_then(seconds)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.co/a?b"), origin("https://hub.co:443"));
        for other in ["http://hub.co", "https://hub.co:8443", "https://cdn.hub.co", "https://hub.co.evil.org"] {
            assert_ne!(origin("https://hub.co"), origin(other), "{other}");
        }
        for wrong in ["", "hub.co", "ftp://hub.co", "file:///etc", "https://"] {
            assert_eq!(origin(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_redirect_may_be_relative_and_never_leaves_tls() {
        let to = |at: &str, location: &str| redirected("u", at, &headers("location", location)).ok();
        let at = "https://hub.co/a/b?c";
        assert_eq!(to(at, "/x/y").unwrap(), "https://hub.co/x/y");
        assert_eq!(to(at, "https://cdn.co/x").unwrap(), "https://cdn.co/x");
        assert_eq!(to(at, "//cdn.co/x").unwrap(), "https://cdn.co/x");
        assert_eq!(to("http://localhost:1/a", "http://localhost:2/x").unwrap(), "http://localhost:2/x");
        for location in ["http://cdn.co/x", "ftp://cdn.co/x", "file:///etc/passwd", "x/y", ""] {
            assert_eq!(to(at, location), None, "{location}");
        }
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        assert_eq!(asked_wait(&headers("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(asked_wait(&headers("ratelimit", "\"api\";r=0;t=55")), Some(Duration::from_secs(55)));
        assert_eq!(asked_wait(&headers("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")), Some(Duration::ZERO));
        let later = asked_wait(&headers("retry-after", "Fri, 06 Nov 2093 08:49:37 GMT")).unwrap();
        assert!(later > LONGEST_WAIT, "{later:?}");
        assert_eq!(asked_wait(&headers("retry-after", "soon")), None);
        assert_eq!(asked_wait(&HeaderMap::new()), None);
    }

    #[test]
    fn tries_end() {
        let mut tries = Tries { failures: 0, first_wait: Duration::ZERO };
        let passing = || HttpFault::Passing { message: "the server answers 500".into(), wait: None };
        let mut on_event = |_: HubEvent| ControlFlow::Continue(());
        for _ in 1..TRIES {
            tries.again("u", passing(), &mut on_event).unwrap();
        }
        let message = tries.again("u", passing(), &mut on_event).unwrap_err().to_string();
        assert_eq!(message, "cannot get `u`: the server answers 500; tried 6 times");
        let mut tries = Tries { failures: 0, first_wait: Duration::from_secs(3600) };
        let message = tries.again("u", passing(), &mut on_event).unwrap_err().to_string();
        assert!(message.contains("a wait of 3600 s"), "{message}");
        let mut stop = |_: HubEvent| ControlFlow::Break(());
        let mut tries = Tries { failures: 0, first_wait: Duration::from_secs(60) };
        assert!(matches!(tries.again("u", passing(), &mut stop), Err(Error::Stopped("pull"))));
    }
}
