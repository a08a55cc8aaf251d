//! How an import begins: a repeat gets its first answer, what will not do is refused before a byte is taken in, and a dry
//! run goes no further than that.

use std::sync::Arc;

use hostler_model::{
    Refusal, TenantId,
    disk::{HEAD, SourceFormat},
    event::Actor,
    image::{Part, Sha256Hex},
    import::{Expected, Import, NewImport, Piece, Plan, Source, Stretch},
};
use hostler_store::{BegunImport, Idempotency, NewImportRow, Origin};
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncSeekExt},
};

use super::{
    super::{
        App, Error, Result,
        blob::{self, Received, Sent},
        caller::Call,
        submit::Terms,
    },
    LIMIT, Work,
    sources::read_url,
};

/// An upload as its request describes it.
#[derive(Debug)]
pub struct Upload {
    /// What is to be made of it.
    pub plan: Plan,
    /// What its bytes will be, where that is said: then they may come in several calls.
    pub sha256: Option<Sha256Hex>,
    /// Where the body belongs.
    pub stretch: Stretch,
    /// How long the body is said to be.
    pub length: Option<u64>,
}

impl App {
    /// Begins an import from where the request says.
    pub async fn import(
        self: &Arc<Self>,
        call: &Call,
        name: &str,
        new: &NewImport,
        terms: Terms,
    ) -> Result<BegunImport> {
        if let Some(first) = self.first(call, terms.idempotency.as_ref().filter(|_| !terms.dry_run)).await? {
            return Ok(first);
        }
        let plan = new.plan(name, &self.sources.catalogue)?;
        for piece in &plan.pieces {
            self.sources.check(call, &piece.source)?;
            if let Source::Blob(sha256) = &piece.source
                && self.blob_of(call.tenant()?, sha256).await?.is_none()
            {
                return Err(blob::not_here(sha256).into());
            }
        }
        self.store.may_add_images(call.tenant()?, 1).await??;
        if !terms.dry_run {
            return self.begin(call.tenant()?, call.actor(), (plan, Origin::Asked), terms.idempotency, None).await;
        }
        for piece in &plan.pieces {
            self.rehearse(piece).await?;
        }
        self.as_if(call, plan).await
    }

    /// Imports files that the configuration names ([`Sources::files`](super::Sources)), and waits until that is over. Files
    /// that it names unless somebody says otherwise are as if they were shipped.
    pub async fn import_configured(self: &Arc<Self>, name: &str, new: &NewImport, origin: Origin) -> Result<Import> {
        let plan = new.plan(name, &self.sources.catalogue)?;
        let begun = self.begin(TenantId::DEFAULT, Actor::system(), (plan, origin), None, None).await?;
        self.import_ended(begun.import, LIMIT).await
    }

    /// Whether an upload's bytes are wanted: an answer at once where they are not.
    pub async fn may_upload(&self, call: &Call, upload: &Upload, terms: &Terms) -> Result<Option<BegunImport>> {
        if let (Some(sent), Some(sha256), false) = (&terms.idempotency, &upload.sha256, terms.dry_run)
            && let Some(first) = self.first(call, Some(&of_bytes(sent, sha256))).await?
        {
            return Ok(Some(first));
        }
        let Upload { sha256, stretch, length, .. } = upload;
        if stretch.of.is_some() && sha256.is_none() {
            return Err(
                Refusal::field("sha256", "say what the whole will be: it tells which pieces belong together").into()
            );
        }
        if stretch.until != stretch.of {
            let detail =
                "the last piece goes here, for it makes the image; send those before it to PUT /api/v1/blobs/{sha256}";
            return Err(Refusal::field("Content-Range", detail).into());
        }
        self.store.may_import(call.tenant()?).await??;
        self.may_send(call, *stretch, *length).await?;
        if terms.dry_run { self.as_if(call, upload.plan.clone()).await.map(Some) } else { Ok(None) }
    }

    /// Refuses bytes for which there is no room.
    pub async fn may_send(&self, call: &Call, stretch: Stretch, length: Option<u64>) -> Result<()> {
        let whole = stretch.of.or(length).unwrap_or(1);
        if whole > self.blobs.limit() {
            return Err(blob::too_long(self.blobs.limit()).into());
        }
        self.store.may_add_images(call.tenant()?, whole).await??;
        Ok(())
    }

    /// Takes in a body, and begins its import.
    pub async fn upload(
        self: &Arc<Self>,
        call: &Call,
        upload: Upload,
        sent: Option<Idempotency>,
        body: impl AsyncRead + Unpin,
    ) -> Result<BegunImport> {
        let tenant = call.tenant()?;
        let received = match &upload.sha256 {
            None => {
                let (_place, charge) = (self.blobs.room.send(tenant)?, self.charge(tenant).await?);
                self.blobs.receive(self.ids.next(self.clock.now()), charge, body).await?
            }
            Some(sha256) => match self.take_upload(call, sha256, upload.stretch, body).await? {
                Sent::Whole(received) => received,
                Sent::Part(_) => return Err(Error::Fault("the last piece of an upload was not its last")),
            },
        };
        self.still(call).await?;
        let sent = sent.map(|sent| of_bytes(&sent, &received.sha256));
        self.begin(tenant, call.actor(), (upload.plan, Origin::Asked), sent, Some(received)).await
    }

    /// Takes in a stretch of a file whose digest is known.
    pub async fn take_upload(
        &self,
        call: &Call,
        sha256: &Sha256Hex,
        stretch: Stretch,
        body: impl AsyncRead + Unpin,
    ) -> Result<Sent> {
        let tenant = call.tenant()?;
        let _place = self.blobs.room.send(tenant)?;
        let (charge, name) = (self.charge(tenant).await?, self.ids.next(self.clock.now()));
        self.blobs.take_upload((tenant, sha256), name, stretch, charge, body).await
    }

    async fn begin(
        self: &Arc<Self>,
        tenant: TenantId,
        actor: Actor,
        (plan, origin): (Plan, Origin),
        sent: Option<Idempotency>,
        uploaded: Option<Received>,
    ) -> Result<BegunImport> {
        let row = self.row(tenant, &plan, uploaded.as_ref().map_or(0, |received| received.length), sent);
        let begun = self.store.begin_import(row, actor.clone()).await??;
        if !begun.replayed {
            let work = Work { app: self.clone(), id: begun.import.id, tenant, actor, plan, origin };
            tokio::spawn(work.carry_out(uploaded));
        }
        Ok(begun)
    }

    fn row(&self, tenant: TenantId, plan: &Plan, bytes: u64, idempotency: Option<Idempotency>) -> NewImportRow {
        NewImportRow {
            id: self.ids.next(self.clock.now()),
            tenant,
            name: plan.name.clone(),
            source: plan.source.clone(),
            bytes,
            idempotency,
        }
    }

    /// The first answer under a key, if there was one.
    async fn first(&self, call: &Call, sent: Option<&Idempotency>) -> Result<Option<BegunImport>> {
        let Some(sent) = sent else { return Ok(None) };
        let first = self.store.first_import(call.tenant()?, call.actor(), sent.clone()).await?;
        Ok(first.transpose()?.map(|import| BegunImport { import, replayed: true }))
    }

    /// The import that would begin.
    async fn as_if(&self, call: &Call, plan: Plan) -> Result<BegunImport> {
        self.store.may_import(call.tenant()?).await??;
        let import = self.row(call.tenant()?, &plan, 0, None).import(call.caller.principal, self.clock.now());
        Ok(BegunImport { import, replayed: false })
    }

    /// What can be said of a file without fetching it: that its host may be called, that it is there, that its header is
    /// good. Whether its bytes have their digest shows only when they are read.
    async fn rehearse(&self, piece: &Piece) -> Result<()> {
        match &piece.source {
            Source::Upload => Ok(()),
            Source::Url(url) => {
                self.sources.addresses(&read_url(url)?).await?;
                if let Expected::Listed(list) = &piece.expected {
                    self.sources.addresses(&read_url(list)?).await?;
                }
                Ok(())
            }
            Source::File(path) => look(piece, self.sources.open(path).await?).await,
            Source::Blob(sha256) => {
                piece.expected.must_be(sha256)?;
                look(piece, self.blobs.open(sha256).await?.0).await
            }
        }
    }
}

/// Refuses a disk that the import would refuse for its first bytes or its header.
async fn look(piece: &Piece, mut file: File) -> Result<()> {
    if !matches!(piece.part, Part::Disk | Part::Rootfs) {
        return Ok(());
    }
    let mut head = Vec::with_capacity(HEAD);
    (&mut file).take(HEAD as u64).read_to_end(&mut head).await.map_err(Error::file("read a file"))?;
    file.rewind().await.map_err(Error::file("read a file"))?;
    match SourceFormat::settle(piece.format, &head)? {
        packed if packed.packing().is_some() => Ok(()),
        format => blob::inspect(file.into_std().await, format).await.map(drop),
    }
}

/// What an upload's key stands for: what its request says, and its bytes.
fn of_bytes(sent: &Idempotency, sha256: &Sha256Hex) -> Idempotency {
    let whole = Sha256::new().chain_update(&sent.body).chain_update(sha256.as_str()).finalize();
    Idempotency { body: hex::encode(whole), ..sent.clone() }
}
