//! Room on the server's disk that no image accounts for yet, by tenant: files under way, and blobs that wait for their
//! image. It counts against the limit of the tenant's images, or the disk could be filled with what never becomes one.
//! Kept in memory: what is under way ends with this server, and what waits is removed within a day.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hostler_model::{Code, Refusal, TenantId, image::Sha256Hex};

/// How many files one tenant may send at once.
const SENDERS: usize = 4;

/// What each tenant holds. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Room(Arc<Mutex<BTreeMap<TenantId, Held>>>);

#[derive(Debug, Default)]
struct Held {
    /// What the limit leaves beside the images, in bytes, when it was last looked at; `None` is no limit.
    left: Option<u64>,
    moving: u64,
    kept: BTreeMap<Sha256Hex, u64>,
    senders: usize,
}

impl Held {
    fn admit(&self, tenant: TenantId, bytes: u64) -> Result<(), Refusal> {
        let held = self.moving.saturating_add(self.kept.values().sum());
        match self.left {
            Some(left) if held.saturating_add(bytes) > left => Err(full(tenant, left, held)),
            Some(_) | None => Ok(()),
        }
    }
}

impl Room {
    /// An account for one file; `left` is what the tenant's limit leaves beside its images.
    pub fn charge(&self, tenant: TenantId, left: Option<u64>) -> Charge {
        self.held().entry(tenant).or_default().left = left;
        Charge { room: self.clone(), tenant, bytes: AtomicU64::new(0) }
    }

    /// A place among those who send.
    ///
    /// # Errors
    /// When the tenant sends too much at once.
    pub fn send(&self, tenant: TenantId) -> Result<Sending, Refusal> {
        let mut all = self.held();
        let held = all.entry(tenant).or_default();
        if held.senders >= SENDERS {
            let detail = format!("the tenant sends {SENDERS} files already; wait until one has come");
            return Err(Refusal::new(Code::QuotaExceeded, detail).with("limit", SENDERS));
        }
        held.senders += 1;
        Ok(Sending { room: self.clone(), tenant })
    }

    /// Blobs that an image of this tenant accounts for now, and what its limit leaves since.
    pub fn claimed<'a>(&self, tenant: TenantId, blobs: impl Iterator<Item = &'a Sha256Hex>, left: Option<u64>) {
        let mut all = self.held();
        let held = all.entry(tenant).or_default();
        held.left = left;
        for sha256 in blobs {
            held.kept.remove(sha256);
        }
    }

    /// An upload that waits for the rest of it, found when the server began.
    pub fn rests(&self, tenant: TenantId, sha256: Sha256Hex, bytes: u64) {
        self.held().entry(tenant).or_default().kept.insert(sha256, bytes);
    }

    /// A blob that was removed.
    pub fn gone(&self, sha256: &Sha256Hex) {
        for held in self.held().values_mut() {
            held.kept.remove(sha256);
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<TenantId, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one file takes. Dropped, it takes nothing.
#[derive(Debug)]
pub struct Charge {
    room: Room,
    tenant: TenantId,
    bytes: AtomicU64,
}

impl Charge {
    /// It takes so many bytes in all now.
    ///
    /// # Errors
    /// When that is more than the tenant may have; it takes what it took before then.
    pub fn grow_to(&self, bytes: u64) -> Result<(), Refusal> {
        let mut all = self.room.held();
        let held = all.entry(self.tenant).or_default();
        let more = bytes.saturating_sub(self.bytes.load(Ordering::Relaxed));
        held.admit(self.tenant, more)?;
        held.moving += more;
        self.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// What rested of it is counted with what comes from now on.
    pub fn wake(&self, sha256: &Sha256Hex) {
        let mut all = self.room.held();
        let held = all.entry(self.tenant).or_default();
        let rested = held.kept.remove(sha256).unwrap_or(0);
        held.moving += rested;
        self.bytes.fetch_add(rested, Ordering::Relaxed);
    }

    /// It takes nothing again.
    pub fn clear(&self) {
        let mut all = self.room.held();
        let held = all.entry(self.tenant).or_default();
        held.moving = held.moving.saturating_sub(self.bytes.swap(0, Ordering::Relaxed));
    }

    /// It is a blob now, that waits for its image; or an upload that waits for the rest of it.
    pub fn keep(&self, sha256: Sha256Hex) {
        let mut all = self.room.held();
        let held = all.entry(self.tenant).or_default();
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        held.moving = held.moving.saturating_sub(bytes);
        held.kept.insert(sha256, bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A place among those who send.
#[derive(Debug)]
pub struct Sending {
    room: Room,
    tenant: TenantId,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut all = self.room.held();
        let held = all.entry(self.tenant).or_default();
        held.senders = held.senders.saturating_sub(1);
    }
}

fn full(tenant: TenantId, left: u64, held: u64) -> Refusal {
    let detail = format!(
        "the limit of the tenant's images leaves {left} bytes, and {held} of them are under way or wait for their image; \
         wait until imports have ended, or delete images"
    );
    Refusal::new(Code::QuotaExceeded, detail)
        .with("tenant", tenant.to_string())
        .with("left_bytes", left)
        .with("held_bytes", held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_and_what_waits_counts_until_it_is_gone_or_an_image() {
        let (room, tenant) = (Room::default(), TenantId::DEFAULT);
        let sha256 = Sha256Hex::of(b"a");
        let (first, second) = (room.charge(tenant, Some(10)), room.charge(tenant, Some(10)));
        first.grow_to(6).unwrap();
        assert_eq!(second.grow_to(5).unwrap_err().code, Code::QuotaExceeded);
        second.grow_to(4).unwrap();
        drop(second);
        first.keep(sha256.clone());
        let third = room.charge(tenant, Some(10));
        assert!(third.grow_to(5).is_err(), "a blob that waits for its image counts");
        room.claimed(tenant, [&sha256].into_iter(), Some(4));
        assert!(third.grow_to(5).is_err(), "the image counts now");
        third.grow_to(4).unwrap();
        third.clear();
        room.charge(tenant, None).grow_to(u64::MAX / 2).unwrap();
        room.charge(tenant, Some(4)).keep(sha256.clone());
        room.gone(&sha256);
        third.grow_to(4).unwrap();
    }

    #[test]
    fn a_tenant_sends_few_files_at_once() {
        let room = Room::default();
        let mut sending: Vec<Sending> = (0..SENDERS).map(|_| room.send(TenantId::DEFAULT).unwrap()).collect();
        assert_eq!(room.send(TenantId::DEFAULT).unwrap_err().code, Code::QuotaExceeded);
        sending.pop();
        assert!(room.send(TenantId::DEFAULT).is_ok());
    }
}
