//! Imports: files from outside become an image. The work is the server's own, not a node's, so it is no task; what is
//! written down of it is how far it is. A server that dies leaves a partial file, whose lock is free then, and a row that
//! no beat reaches any more: both are collected.
//!
//! ```text
//! fetch (upload, url, file, blob) ─► digest ─► turn ─► format ─► unpack ─► header ─► qemu-img ─► blob ─► manifest
//! ```

mod begin;
mod convert;
mod fetch;
mod meter;
mod sources;
mod unpack;

use std::{path::Path, sync::Arc, time::Duration};

use hostler_model::{
    Code, ImageDigest, Refusal, TenantId,
    checksum::Checksum,
    disk::{HEAD, SourceFormat},
    event::Actor,
    id::ImportId,
    image::{DiskFormat, ImageFile, Manifest, Part, Sha256Hex},
    import::{Expected, Import, ImportPhase, Piece, Plan, Source},
    task::TaskError,
};
use hostler_store::Origin;
use tokio::{
    fs::File,
    io::AsyncReadExt,
    sync::{Notify, Semaphore, SemaphorePermit},
};

use self::meter::Meter;
pub use self::{begin::Upload, sources::Sources};
use super::{
    App, Error, Result,
    blob::{self, Among, Digests, Partial, Received, Sink},
    caller::Call,
    image::holds,
    not_found,
};

/// How many disks are looked at and converted at once; others wait. Each takes a processor and the disk.
const AT_ONCE: usize = 2;
/// How long a file may take to come, and to be made a disk then: a large image over a slow line. Waiting is not counted.
const LIMIT: Duration = Duration::from_secs(6 * 3600);
/// How often its server says that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// How often it says so while the import waits for others.
const WAITING_BEAT: Duration = Duration::from_secs(10);
/// How often the growth of what qemu-img writes is accounted for.
const ACCOUNT: Duration = Duration::from_millis(200);
const GIB: u64 = 1 << 30;

/// What imports share.
#[derive(Debug)]
pub(crate) struct Imports {
    turns: Semaphore,
    ended: Notify,
    /// Somebody asked that an import be stopped.
    stopped: Notify,
}

impl Default for Imports {
    fn default() -> Self {
        Imports { turns: Semaphore::new(AT_ONCE), ended: Notify::new(), stopped: Notify::new() }
    }
}

/// A file as it will be part of the image.
struct Made {
    part: Part,
    file: ImageFile,
    /// Its bytes; none where they are a blob already.
    bytes: Option<Received>,
    /// What a guest would see of a disk, in bytes.
    virtual_size: u64,
}

impl App {
    /// An import that this caller may see.
    pub async fn one_import(&self, call: &Call, text: &str) -> Result<Import> {
        let unknown = || not_found(Code::ImportNotFound, "import", text);
        let id: ImportId = text.parse().map_err(|_| unknown())?;
        let import = self.store.import(id).await?.filter(|import| call.may_see(import.tenant));
        import.ok_or_else(|| unknown().into())
    }

    /// The caller's imports, newest first.
    pub async fn imports(&self, call: &Call, before: Option<ImportId>, limit: usize) -> Result<Vec<Import>> {
        Ok(self.store.imports(call.tenant()?, before, limit).await?)
    }

    /// Asks that an import be stopped; it is within a second or two.
    pub async fn cancel_import(&self, call: &Call, text: &str) -> Result<Import> {
        let import = self.one_import(call, text).await?;
        self.store.cancel_import(import.id, call.actor()).await?;
        self.importing.stopped.notify_waiters();
        self.one_import(call, text).await
    }

    /// An import once it is over, or as it is when the time is up.
    pub async fn import_ended(&self, import: Import, up_to: Duration) -> Result<Import> {
        let until = tokio::time::Instant::now() + up_to;
        let mut import = import;
        while !import.state.is_terminal() {
            tokio::select! {
                () = self.importing.ended.notified() => {}
                () = tokio::time::sleep(BEAT) => {}
                () = tokio::time::sleep_until(until) => return Ok(import),
                () = self.closing.cancelled() => return Ok(import),
            }
            import = self.store.import(import.id).await?.unwrap_or(import);
        }
        Ok(import)
    }
}

/// One import under way.
struct Work {
    app: Arc<App>,
    id: ImportId,
    tenant: TenantId,
    actor: Actor,
    plan: Plan,
    origin: Origin,
}

impl Work {
    async fn carry_out(self, uploaded: Option<Received>) {
        let meter = Meter::default();
        let end = tokio::select! {
            end = self.make(uploaded, &meter) => end,
            why = self.beats(&meter) => Err(why.into()),
            () = self.app.closing.cancelled() => {
                Err(Refusal::new(Code::ImportFailed, "the server went away; import it again").into())
            }
        };
        let end = match end {
            // The last word on how far it was; whether it may go on is decided with the image.
            Ok(made) => match self.app.store.beat_import(self.id, meter.read()).await {
                Ok(_) => self.store(made).await,
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        };
        // Success is written down with the image.
        if let Err(error) = end
            && let Err(error) = self.app.store.end_import(self.id, Err(told(&error))).await
        {
            tracing::error!(import.id = %self.id, error = &error as &dyn std::error::Error, "how an import ended cannot be written down");
        }
        self.app.importing.ended.notify_waiters();
    }

    /// Says again and again how far it is; returns when it is not to go on.
    async fn beats(&self, meter: &Meter) -> Refusal {
        loop {
            // Before the row is read: what is asked for from here on is not missed.
            let stopped = self.app.importing.stopped.notified();
            let progress = meter.read();
            let pause = if progress.phase == ImportPhase::Waiting { WAITING_BEAT } else { BEAT };
            match self.app.store.beat_import(self.id, progress).await {
                Ok(true) => {}
                Ok(false) => return Refusal::new(Code::Cancelled, "it was cancelled"),
                Err(error) => {
                    tracing::warn!(import.id = %self.id, error = &error as &dyn std::error::Error, "an import's progress cannot be written down");
                }
            }
            tokio::select! {
                () = meter.changed() => {}
                () = stopped => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn make(&self, mut uploaded: Option<Received>, meter: &Meter) -> Result<Vec<Made>> {
        let mut made = Vec::new();
        for piece in &self.plan.pieces {
            made.push(self.take(piece, uploaded.take(), meter).await?);
        }
        Ok(made)
    }

    /// Makes blobs and an image of what came. It takes a moment, and is not broken off: what a refusal leaves is removed.
    async fn store(&self, made: Vec<Made>) -> Result<ImageDigest> {
        let (app, manifest) = (&self.app, self.manifest(&made)?);
        app.store.may_put_image(self.tenant, manifest.clone()).await??;
        // No blob is removed between its coming and the image that refers to it.
        let claim = app.blobs.claim().await;
        let mut new = Vec::new();
        let image = self.keep_and_register(made, manifest, &mut new).await;
        drop(claim);
        if image.is_err() {
            app.collect_blobs(Among::These(&new)).await?;
        }
        image
    }

    async fn keep_and_register(
        &self,
        made: Vec<Made>,
        manifest: Manifest,
        new: &mut Vec<Sha256Hex>,
    ) -> Result<ImageDigest> {
        for received in made.into_iter().filter_map(|made| made.bytes) {
            let sha256 = received.sha256.clone();
            if self.app.blobs.keep(received).await? {
                new.push(sha256);
            }
        }
        let (named, actor) = ((self.origin, self.plan.aliases.clone()), self.actor.clone());
        Ok(self.app.register(manifest, (self.id, named), actor).await?.digest)
    }

    /// One file, from where it is to bytes that are safe to keep.
    async fn take(&self, piece: &Piece, uploaded: Option<Received>, meter: &Meter) -> Result<Made> {
        let part = piece.part;
        let is_disk = matches!(part, Part::Disk | Part::Rootfs);
        meter.phase(ImportPhase::Fetching);
        let received = match (&piece.source, uploaded) {
            (Source::Blob(sha256), _) if !is_disk => return self.blob(part, sha256, &piece.expected).await,
            (_, Some(received)) => {
                meter.bytes(received.length, Some(received.length));
                received
            }
            (source, None) => in_time(self.receive(source, &piece.expected, meter)).await?,
        };
        piece.expected.must_be(&received.sha256)?;
        if is_disk {
            let _turn = self.turn(meter).await?;
            return in_time(self.disk(part, piece.format, received, meter)).await;
        }
        Ok(Made { part, file: file(&received, None), bytes: Some(received), virtual_size: 0 })
    }

    async fn receive(&self, source: &Source, expected: &Expected, meter: &Meter) -> Result<Received> {
        match source {
            Source::Blob(sha256) => self.copy(self.app.blobs.open(sha256).await?.0, meter).await,
            Source::File(path) => self.copy(self.app.sources.open(path).await?, meter).await,
            Source::Url(url) => self.fetch(url, expected, meter).await,
            Source::Upload => Err(Error::Fault("an upload has no bytes")),
        }
    }

    /// A turn at the processor and the disk. None is held while bytes come: a slow sender would hold it from all others.
    async fn turn(&self, meter: &Meter) -> Result<SemaphorePermit<'_>> {
        let turns = &self.app.importing.turns;
        if let Ok(turn) = turns.try_acquire() {
            return Ok(turn);
        }
        meter.phase(ImportPhase::Waiting);
        turns.acquire().await.map_err(|_| Error::Fault("imports have no turns"))
    }

    async fn sink(&self, digests: Digests) -> Result<Sink> {
        let charge = self.app.charge(self.tenant).await?;
        self.app.blobs.sink(self.app.ids.next(self.app.clock.now()), charge, digests).await
    }

    async fn blob(&self, part: Part, sha256: &Sha256Hex, expected: &Expected) -> Result<Made> {
        expected.must_be(sha256)?;
        let (_, size) = self.app.blobs.open(sha256).await?;
        let file = ImageFile { sha256: sha256.clone(), size, format: None };
        Ok(Made { part, file, bytes: None, virtual_size: 0 })
    }

    /// A copy of our own: what is looked at is what is used, whatever happens to the file meanwhile.
    async fn copy(&self, mut from: File, meter: &Meter) -> Result<Received> {
        let of = from.metadata().await.map_err(Error::file("look at a file"))?.len();
        let mut sink = self.sink(Digests::Sha256).await?;
        let mut piece = vec![0; 256 << 10];
        loop {
            match from.read(&mut piece).await.map_err(Error::file("read a file"))? {
                0 => return sink.finish().await,
                read => sink.write(&piece[..read]).await?,
            }
            meter.bytes(sink.length(), Some(of));
        }
    }

    async fn fetch(&self, url: &str, expected: &Expected, meter: &Meter) -> Result<Received> {
        let listed = match expected {
            Expected::Listed(list) => Some(fetch::listed(&self.app.sources, list, url).await?),
            Expected::Recorded | Expected::Sha256(_) => None,
        };
        let digests = if matches!(listed, Some(Checksum::Sha512(_))) { Digests::Both } else { Digests::Sha256 };
        let mut sink = self.sink(digests).await?;
        fetch::fetch(&self.app.sources, url, &mut sink, self.app.blobs.limit(), meter).await?;
        let received = sink.finish().await?;
        match listed {
            None => {}
            Some(Checksum::Sha256(sha256)) => Expected::Sha256(sha256).must_be(&received.sha256)?,
            Some(Checksum::Sha512(sha512)) if received.sha512.as_deref() == Some(&sha512) => {}
            Some(Checksum::Sha512(_)) => {
                let detail = "the bytes do not have the sha512 of the vendor's list; try again, or ask the vendor";
                return Err(Refusal::new(Code::ImportFailed, detail).into());
            }
        }
        Ok(received)
    }

    /// A disk, in whatever format it came, as a qcow2 that is safe to open.
    async fn disk(&self, part: Part, said: Option<SourceFormat>, from: Received, meter: &Meter) -> Result<Made> {
        meter.phase(ImportPhase::Checking);
        let (app, mut from) = (&self.app, from);
        let mut format = SourceFormat::settle(said, &head(from.path()).await?)?;
        if let Some(packing) = format.packing() {
            from = self.unpack(packing, &from).await?;
            format = packing.inside(said, &head(from.path()).await?)?;
        }
        let virtual_size = inspect(from.path(), format).await?;
        if format != SourceFormat::Qcow2 {
            meter.phase(ImportPhase::Converting);
            let charge = app.charge(self.tenant).await?;
            let to = app.blobs.partial(app.ids.next(app.clock.now()), charge).await?;
            tokio::select! {
                converted = convert::to_qcow2(from.path(), format, to.path(), app.blobs.limit(), meter) => converted?,
                full = account(&to) => return Err(full.into()),
            }
            from = app.blobs.measure(to).await?;
            inspect(from.path(), SourceFormat::Qcow2).await?;
        }
        Ok(Made { part, file: file(&from, Some(DiskFormat::Qcow2)), bytes: Some(from), virtual_size })
    }

    fn manifest(&self, made: &[Made]) -> Result<Manifest> {
        let shape = &self.plan.shape;
        let least = made.iter().map(|made| made.virtual_size.div_ceil(GIB)).max().unwrap_or(0) as i64;
        let mut defaults = shape.defaults;
        if !shape.disk_said {
            defaults.disk_gib = defaults.disk_gib.max(least);
        }
        let manifest = Manifest {
            name: self.plan.name.clone(),
            arch: shape.arch.clone(),
            files: made.iter().map(|made| (made.part, made.file.clone())).collect(),
            cmdline: shape.cmdline.clone(),
            firmware: shape.firmware,
            defaults,
            ready: shape.ready.clone(),
            ready_timeout_seconds: None,
            // Whole disks that are passed around are cloud images nearly always; to another one a seed is a small disk.
            cloud_init: made.iter().any(|made| made.part == Part::Disk),
        };
        manifest.check()?;
        for made in made.iter().filter(|made| made.virtual_size > 0) {
            holds(&manifest, made.part, made.virtual_size)?;
        }
        Ok(manifest)
    }
}

/// Accounts for what a program writes while it does; returns when that is too much.
async fn account(to: &Partial) -> Refusal {
    loop {
        tokio::time::sleep(ACCOUNT).await;
        if let Err(full) = to.account() {
            return full;
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Refusal::new(Code::ImportFailed, format!("it took longer than {} s", LIMIT.as_secs()));
    tokio::time::timeout(LIMIT, work).await.map_err(late)?
}

fn file(received: &Received, format: Option<DiskFormat>) -> ImageFile {
    ImageFile { sha256: received.sha256.clone(), size: received.length, format }
}

/// The bytes by which a format is told.
async fn head(of: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    let file = File::open(of).await.map_err(Error::file("read a blob"))?;
    file.take(HEAD as u64).read_to_end(&mut head).await.map_err(Error::file("read a blob"))?;
    Ok(head)
}

async fn inspect(of: &Path, format: SourceFormat) -> Result<u64> {
    let file = std::fs::File::open(of).map_err(Error::file("read a blob"))?;
    blob::inspect(file, format).await
}

/// Why an import failed, for people. What is our own fault is logged, and only a sentence leaves the server.
fn told(error: &Error) -> TaskError {
    match error {
        Error::Refused(refusal) => TaskError { code: refusal.code, detail: refusal.detail.clone() },
        Error::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => TaskError {
            code: Code::StorageFull,
            detail: "the server's disk is full; make room, and import again".into(),
        },
        Error::Store(_) | Error::File { .. } | Error::Trust { .. } | Error::Fault(_) => {
            tracing::error!(error = error as &dyn std::error::Error, "an import failed by our own fault");
            TaskError { code: Code::Internal, detail: "the server failed; its log says why".to_owned() }
        }
    }
}
