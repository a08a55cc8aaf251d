//! Sends a file of ours to the server. Its digest is taken first: by it the server knows how much of it is there already,
//! so that sending goes on where it broke off, whether the connection broke, the server was restarted, or this program.

use std::{path::Path, time::Duration};

use futures_util::stream;
use hostler_client::{ClientError, Rest, Submit, Upload};
use hostler_link::Body;
use hostler_model::{
    Code, Refusal,
    image::{Part, Sha256Hex},
    import::{Import, NewImport, PartSource},
};
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

use crate::{
    cli::Session,
    exit::{Exit, Failure},
    interrupt::Interrupt,
    line::Line,
    output::note,
};

/// A piece of a file that is read and sent at once.
const PIECE: usize = 256 << 10;
/// How often in a row a connection may break without a byte more, and the pause after the first time; each later one is
/// twice as long. It makes two minutes: a server waits one for a sender that it does not know to be gone.
const TRIES: u32 = 7;
const PAUSE: Duration = Duration::from_secs(1);

/// A file that is here.
pub(super) struct Local<'a> {
    path: &'a Path,
    length: u64,
    pub(super) sha256: Sha256Hex,
}

/// What one call brings.
enum Sent<T> {
    /// The server has all of it, and has answered.
    Done(T),
    /// It had all of it before.
    There,
}

/// How far the sending of a file is.
struct Course {
    line: Line,
    /// Where the last try began, and how many followed one another without a byte more.
    from: u64,
    tries: u32,
}

impl Local<'_> {
    /// Reads it once, for its digest.
    pub(super) async fn read<'a>(path: &'a Path, session: &Session) -> Result<Local<'a>, Failure> {
        let (mut file, length) = open(path).await?;
        let line = Line::of_bytes(!session.is_data(), "reading", length);
        let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
        loop {
            match file.read(&mut piece).await? {
                0 => break,
                read => {
                    hash.update(&piece[..read]);
                    line.sent(read as u64);
                }
            }
        }
        line.clear();
        Ok(Local { path, length, sha256: hex::encode(hash.finalize()).parse()? })
    }

    /// Refuses a file that is not what was said, before any of it is sent.
    pub(super) fn must_be(&self, said: Option<&Sha256Hex>) -> Result<(), Failure> {
        match said {
            Some(said) if *said != self.sha256 => {
                let (path, found) = (self.path.display(), &self.sha256);
                Err(Failure::new(Exit::Refused, format!("{path} has the sha256 {found}, not {said}; nothing was sent"))
                    .help("fetch the file again, or leave --sha256 out if this is the file that you mean"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Sends it as an image.
    pub(super) async fn send_image(&self, name: &str, upload: &Upload, session: &Session) -> Result<Import, Failure> {
        let key = session.client.fresh_key();
        let put = async |rest, body| session.client.upload_image(name, upload, rest, &key, body).await;
        match self.send(session, put).await? {
            Sent::Done(import) => Ok(import),
            Sent::There => {
                let blob = Some(self.sha256.clone());
                let disk = PartSource { blob, format: upload.format, ..PartSource::default() };
                let (parts, image) = ([(Part::Disk, disk)].into(), upload.image.clone());
                let new = NewImport { parts, image, ..NewImport::default() };
                Ok(session.client.import_image(name, &new, &Submit::default()).await?)
            }
        }
    }

    /// Sends it as a blob, under its digest.
    pub(super) async fn send_blob(&self, session: &Session) -> Result<(), Failure> {
        let put = async |rest, body| session.client.upload_blob(&self.sha256, rest, body).await;
        self.send(session, put).await.map(drop)
    }

    async fn send<T>(
        &self,
        session: &Session,
        put: impl AsyncFn(Rest, Body) -> Result<T, ClientError>,
    ) -> Result<Sent<T>, Failure> {
        let mut interrupt = Interrupt::listen()?;
        let line = Line::of_bytes(!session.is_data(), "sending", self.length);
        let mut course = Course { line, from: 0, tries: 0 };
        let sent = tokio::select! {
            sent = self.persist(session, put, &mut course) => sent,
            signal = interrupt.caught() => {
                Err(Failure::new(Exit::Signalled(signal), format!("interrupted while {} was sent", self.path.display()))
                    .help("the server keeps for a day what has come: the same command goes on from there"))
            }
        };
        course.line.clear();
        sent
    }

    /// Sends what is missing, and asks again what is missing when the connection broke.
    async fn persist<T>(
        &self,
        session: &Session,
        put: impl AsyncFn(Rest, Body) -> Result<T, ClientError>,
        course: &mut Course,
    ) -> Result<Sent<T>, Failure> {
        loop {
            let error = match self.once(session, &put, course).await {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            course.tries += 1;
            if course.tries > TRIES || !may_go_on(&error) {
                return Err(error.into());
            }
            note(format!("{error}; the sending goes on in a moment"));
            tokio::time::sleep(PAUSE * 2u32.pow(course.tries - 1)).await;
        }
    }

    async fn once<T>(
        &self,
        session: &Session,
        put: &impl AsyncFn(Rest, Body) -> Result<T, ClientError>,
        course: &mut Course,
    ) -> Result<Sent<T>, ClientError> {
        let held = session.client.held(&self.sha256).await?;
        if held.complete {
            return Ok(Sent::There);
        }
        // The last byte is sent in any case: with it comes the answer.
        let from = held.size.min(self.length.saturating_sub(1));
        if from > course.from {
            course.tries = 0;
        }
        course.from = from;
        course.line.at(from);
        let body = rest(self.path, from, course.line.clone()).await.map_err(|error| {
            let path = self.path.display();
            Refusal::new(Code::ValidationError, format!("{path} cannot be read any more: {error}"))
        })?;
        put(Rest { from, of: self.length }, body).await.map(Sent::Done)
    }
}

/// Whether another try may bring more: the connection broke, the server knows that it did, or has not noticed yet.
fn may_go_on(error: &ClientError) -> bool {
    let codes = [Code::UploadConflict, Code::MalformedBody, Code::Unavailable, Code::Overloaded];
    error.is_unreachable() || error.problem().is_some_and(|problem| codes.contains(&problem.code))
}

/// A file that is to be sent, and its length.
pub(super) async fn open(path: &Path) -> Result<(File, u64), Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("{} cannot be read: {error}", path.display()))
            .help("name a file here, an address (https://…) or a file on the server (server:/path)")
    };
    let file = File::open(path).await.map_err(unreadable)?;
    let metadata = file.metadata().await.map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Failure::usage(format!("{} is no regular file", path.display())));
    }
    if metadata.len() == 0 {
        return Err(Failure::usage(format!("{} is empty", path.display())));
    }
    Ok((file, metadata.len()))
}

/// What follows a place of a file.
async fn rest(path: &Path, from: u64, line: Line) -> std::io::Result<Body> {
    let mut file = File::open(path).await?;
    file.seek(std::io::SeekFrom::Start(from)).await?;
    let pieces = stream::try_unfold((file, line), |(mut file, line)| async move {
        let mut piece = Vec::with_capacity(PIECE);
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).await?;
        if read == 0 {
            return Ok::<_, std::io::Error>(None);
        }
        line.sent(read as u64);
        Ok(Some((piece, (file, line))))
    });
    Ok(Body::wrap_stream(pieces))
}
