//! HTTP requests that end: each is given up when nothing moves any more, however large it is.
//!
//! A limit on a whole request would have to fit the slowest line; so progress is watched instead: bytes that the
//! connection takes, the answer, bytes of the answer. Knows nothing of S3.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::pace::Pace;

/// What is handed to a connection at once.
const SLICE: usize = 64 << 10;

/// A connector that hands out one client.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    http: reqwest::Client,
    /// How long nothing may move.
    stall: Duration,
    /// How fast bytes may go; those of all requests stand in one line.
    pace: Arc<Pace>,
}

impl Wire {
    /// A client whose connections must be there within `connect`, and whose requests fail when nothing moves for `stall`.
    pub(super) fn new(connect: Duration, stall: Duration, pace: Arc<Pace>) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .connect_timeout(connect)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("backstay/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| root(&error))?;
        Ok(Self { http, stall, pace })
    }
}

/// TLS with the system's certificates, or those in the file that `SSL_CERT_FILE` names.
fn tls() -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| format!("TLS: {error}"))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The last error of a chain: what really happened.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

impl HttpConnector for Wire {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let pulse = Pulse::new(self.stall);
        let mut sent = reqwest::Request::new(parts.method, url);
        *sent.headers_mut() = parts.headers;
        *sent.body_mut() = Some(reqwest::Body::wrap(Outgoing {
            body,
            pulse: pulse.clone(),
            slice: Bytes::new(),
            turn: Turn::new(Arc::clone(&self.pace)),
        }));
        let answer = pulse.watch(self.http.execute(sent)).await?.map_err(failed)?;
        let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        let late = Box::pin(sleep_until(Instant::now() + self.stall));
        let body = HttpResponseBody::new(Incoming {
            body,
            stall: self.stall,
            late,
            held: None,
            turn: Turn::new(Arc::clone(&self.pace)),
        });
        // A request is repeated only as long as its answer has not begun. Data goes on where it broke; a document, which is
        // short, begins when it is there whole.
        let body = if is_document(&parts.headers) { body.bytes().await?.into() } else { body };
        Ok(HttpResponse::from_parts(parts, body))
    }
}

fn is_document(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/xml") || kind.starts_with("text/xml"))
}

/// Sorts what went wrong by whether it may be tried again.
fn failed(error: reqwest::Error) -> HttpError {
    let error = error.without_url();
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_builder() || error.is_redirect() {
        HttpErrorKind::Unknown
    } else {
        // The connection broke, wherever in the request or the answer that was.
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, error)
}

/// Nothing moved for too long.
#[derive(Debug)]
struct Stalled(Duration);

impl Error for Stalled {}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer and no progress for {:?}", self.0)
    }
}

impl From<Stalled> for HttpError {
    fn from(stalled: Stalled) -> Self {
        Self::new(HttpErrorKind::Timeout, stalled)
    }
}

/// When something last moved.
#[derive(Debug, Clone)]
struct Pulse {
    last: Arc<Mutex<Instant>>,
    stall: Duration,
}

impl Pulse {
    fn new(stall: Duration) -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())), stall }
    }

    fn beat(&self) {
        *self.last.lock().expect("setting an instant does not panic") = Instant::now();
    }

    /// Waits for `work` as long as the pulse beats.
    async fn watch<T>(&self, work: impl Future<Output = T>) -> Result<T, Stalled> {
        let mut work = std::pin::pin!(work);
        loop {
            let limit = *self.last.lock().expect("reading an instant does not panic") + self.stall;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep_until(limit) => {
                    if *self.last.lock().expect("reading an instant does not panic") + self.stall <= limit {
                        return Err(Stalled(self.stall));
                    }
                }
            }
        }
    }
}

/// A transfer's place in the line.
struct Turn {
    pace: Arc<Pace>,
    /// Until when the next slice waits; none when it has not entered the line yet.
    entered: Option<Pin<Box<Sleep>>>,
}

impl Turn {
    fn new(pace: Arc<Pace>) -> Self {
        Self { pace, entered: None }
    }

    /// Ready when so many bytes may go; asked again with the same number until then.
    fn poll(&mut self, bytes: usize, context: &mut Context<'_>) -> Poll<()> {
        if self.entered.is_none() {
            let wait = self.pace.enter(bytes).begins;
            if wait.is_zero() {
                // A timer would take a millisecond even so.
                return Poll::Ready(());
            }
            self.entered = Some(Box::pin(sleep_until(Instant::now() + wait)));
        }
        if let Some(wait) = &mut self.entered {
            ready!(wait.as_mut().poll(context));
        }
        self.entered = None;
        Poll::Ready(())
    }
}

/// A request's body, in slices: the connection asks for the next one when it has room.
struct Outgoing {
    body: HttpRequestBody,
    pulse: Pulse,
    /// What is left of the part that was taken last.
    slice: Bytes,
    turn: Turn,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.pulse.beat();
        while self.slice.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => self.slice = frame.into_data().unwrap_or_default(),
                end => return Poll::Ready(end),
            }
        }
        let length = self.slice.len().min(SLICE);
        ready!(self.turn.poll(length, context));
        self.pulse.beat();
        Poll::Ready(Some(Ok(Frame::data(self.slice.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.slice.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint().exact().unwrap_or_default();
        SizeHint::with_exact(rest + self.slice.len() as u64)
    }
}

/// An answer's body.
struct Incoming {
    body: reqwest::Body,
    stall: Duration,
    late: Pin<Box<Sleep>>,
    /// Received, and not yet let through.
    held: Option<Bytes>,
    turn: Turn,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.held.is_none() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => self.held = frame.into_data().ok(),
                Poll::Ready(end) => return Poll::Ready(end.map(|end| end.map_err(failed))),
                Poll::Pending => {
                    ready!(self.late.as_mut().poll(context));
                    return Poll::Ready(Some(Err(Stalled(self.stall).into())));
                }
            }
        }
        let length = self.held.as_ref().map_or(0, Bytes::len);
        ready!(self.turn.poll(length, context));
        let next = Instant::now() + self.stall;
        self.late.as_mut().reset(next);
        Poll::Ready(self.held.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
