//! Files from the network: to checked addresses only, redirects looked at one by one, within limits, and continued where
//! they broke off.

use std::time::Duration;

use futures_util::StreamExt;
use hostler_model::{
    Code, Refusal,
    checksum::{self, Checksum, LIST_LIMIT},
    import::shown,
};
use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Response, Url, redirect};
use tokio::time::Instant;

use super::{
    super::blob::{Sink, too_long},
    Result, Sources,
    meter::Meter,
    sources::read_url,
};

/// How long a connection may take, and how long nothing may come.
const CONNECT: Duration = Duration::from_secs(15);
const STALL: Duration = Duration::from_secs(30);
/// How many redirects are followed: vendors send to a mirror, and mirrors to another.
const REDIRECTS: usize = 8;
/// How often in a row a download may break without a byte more, and the pause after the first time.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// How long a download may be slow, and how many bytes a second it brings at least over such a time: one that drips
/// holds an import of its tenant's few, and a connection, for nothing.
const SPELL: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 64 << 10;

/// How fast bytes come.
struct Speed {
    since: Instant,
    came: u64,
}

impl Speed {
    fn new() -> Speed {
        Speed { since: Instant::now(), came: 0 }
    }

    /// So many bytes more came, of a download that has brought too few lately if this is refused.
    fn came(&mut self, bytes: usize) -> Result<(), String> {
        self.came = self.came.saturating_add(bytes as u64);
        if self.since.elapsed() < SPELL {
            return Ok(());
        }
        let came = std::mem::take(&mut self.came);
        let least = SLOWEST * self.since.elapsed().as_secs();
        self.since = Instant::now();
        if came >= least { Ok(()) } else { Err(format!("it brings less than {SLOWEST} bytes a second")) }
    }
}

/// Why a try ended.
enum Broken {
    /// Another one would end so too.
    Final(super::Error),
    /// Another one may go on.
    Again(String),
}

impl<E: Into<super::Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Broken::Final(error.into())
    }
}

/// Fetches a file into a sink.
///
/// # Errors
/// When it may not be fetched, is too long, or cannot be had after some tries.
pub(super) async fn fetch(sources: &Sources, url: &str, sink: &mut Sink, limit: u64, meter: &Meter) -> Result<()> {
    let url = read_url(url)?;
    let (mut validator, mut tries, mut speed) = (None, 0, Speed::new());
    loop {
        let before = sink.length();
        let line = Line { sources, url: &url, limit, meter };
        let why = match attempt(&line, sink, &mut validator, &mut speed).await {
            Ok(()) => return Ok(()),
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Again(why)) => why,
        };
        tries = if sink.length() > before { 1 } else { tries + 1 };
        if tries > TRIES {
            return Err(failed(&url, &why).into());
        }
        tracing::info!(host = url.host_str(), bytes = sink.length(), why, "a download broke off; it goes on");
        tokio::time::sleep(PAUSE * 2u32.pow(tries - 1)).await;
    }
}

/// What a vendor's list says of a file.
///
/// # Errors
/// When the list cannot be had, or does not say it plainly.
pub(super) async fn listed(sources: &Sources, list: &str, of: &str) -> Result<Checksum> {
    let (url, of) = (read_url(list)?, read_url(of)?);
    let file = of.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
    let response = match open(sources, &url, HeaderMap::new()).await {
        Ok(response) if response.status() == StatusCode::OK => response,
        Ok(response) => return Err(failed(&url, &format!("it answers {}", response.status())).into()),
        Err(Broken::Final(error)) => return Err(error),
        Err(Broken::Again(why)) => return Err(failed(&url, &why).into()),
    };
    let (mut text, mut body) = (Vec::new(), response.bytes_stream());
    while let Some(piece) = body.next().await {
        text.extend(piece.map_err(|error| failed(&url, &words(error)))?);
        if text.len() > LIST_LIMIT {
            return Err(failed(&url, "the list of digests is too long to be one").into());
        }
    }
    Ok(checksum::find(&String::from_utf8_lossy(&text), file)?)
}

/// What every try of a download shares.
struct Line<'a> {
    sources: &'a Sources,
    url: &'a Url,
    limit: u64,
    meter: &'a Meter,
}

async fn attempt(
    line: &Line<'_>,
    sink: &mut Sink,
    validator: &mut Option<header::HeaderValue>,
    speed: &mut Speed,
) -> Result<(), Broken> {
    let Line { sources, url, limit, meter } = *line;
    speed.came(0).map_err(|why| failed(url, &why))?;
    let mut headers = HeaderMap::new();
    match (sink.length(), validator.clone()) {
        (0, _) => {}
        (from, Some(same)) => {
            headers.insert(header::RANGE, format!("bytes={from}-").parse().map_err(|_| again("a range"))?);
            headers.insert(header::IF_RANGE, same);
        }
        // Without a word for "the same file" there is nothing to go on from.
        (_, None) => sink.restart().await?,
    }
    let response = open(sources, url, headers).await?;
    match response.status() {
        StatusCode::OK => sink.restart().await?,
        StatusCode::PARTIAL_CONTENT if begins_at(&response, sink.length()) => {}
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            *validator = None;
            return Err(again("it sent another part than the one that was asked for"));
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(again(&format!("it answers {status}")));
        }
        status => return Err(failed(url, &format!("it answers {status}")).into()),
    }
    *validator = strong(response.headers());
    let of = response.content_length().map(|rest| sink.length().saturating_add(rest));
    if of.is_some_and(|of| of > limit) {
        return Err(too_long(limit).into());
    }
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| Broken::Again(words(error)))?;
        speed.came(piece.len()).map_err(|why| failed(url, &why))?;
        sink.write(&piece).await?;
        meter.bytes(sink.length(), of);
    }
    match of {
        Some(of) if of != sink.length() => Err(again("it ended too early")),
        Some(_) | None => Ok(()),
    }
}

fn again(why: &str) -> Broken {
    Broken::Again(why.to_owned())
}

/// A word for "the same file" that can be relied on.
fn strong(headers: &HeaderMap) -> Option<header::HeaderValue> {
    let etag = headers.get(header::ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/"));
    etag.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}

fn begins_at(response: &Response, at: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {at}-")))
}

/// An answer that is no redirect. Every address on the way is checked, and none leads from https to http.
async fn open(sources: &Sources, url: &Url, headers: HeaderMap) -> Result<Response, Broken> {
    let mut url = url.clone();
    for _ in 0..REDIRECTS {
        let client = client(sources, &url).await?;
        let response = client.get(url.clone()).headers(headers.clone()).send().await;
        let response = response.map_err(|error| Broken::Again(words(error)))?;
        if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let next = to.and_then(|to| url.join(to).ok()).ok_or_else(|| failed(&url, "it redirects to nowhere"))?;
        let next = read_url(next.as_str())?;
        if url.scheme() == "https" && next.scheme() != "https" {
            return Err(failed(&url, "it redirects from https to http, which is not followed").into());
        }
        url = next;
    }
    Err(failed(&url, "it redirects too often").into())
}

/// A client that calls the addresses that were checked: a name that changes its mind meanwhile changes nothing.
async fn client(sources: &Sources, url: &Url) -> Result<Client, Broken> {
    let addresses = sources.addresses(url).await?;
    let client = Client::builder()
        .resolve_to_addrs(url.host_str().unwrap_or_default(), &addresses)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT)
        .read_timeout(STALL)
        .user_agent(concat!("hostler/", env!("CARGO_PKG_VERSION")))
        .build();
    client.map_err(|error| failed(url, &words(error)).into())
}

/// An error's words and its cause's, without the address, which may hold a secret.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}

fn failed(url: &Url, why: &str) -> Refusal {
    let host = url.host_str().unwrap_or_default().to_owned();
    let detail = format!("{} cannot be fetched: {why}", shown(url.as_str()));
    Refusal::new(Code::ImportFailed, detail).with("host", host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_download_that_drips_is_given_up_and_one_that_pauses_is_not() {
        let mut drips = Speed::new();
        for _ in 0..59 {
            tokio::time::advance(Duration::from_secs(1)).await;
            drips.came(1024).unwrap();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(drips.came(1024).unwrap_err().contains("bytes a second"));
        let mut pauses = Speed::new();
        for _ in 0..5 {
            pauses.came(8 << 20).unwrap();
            tokio::time::advance(Duration::from_secs(60)).await;
            pauses.came(0).unwrap();
        }
    }
}
