//! What to throw away: images that no machine here is made of, when they have not been used for long, and sooner while the
//! disk is getting full.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, SystemTime},
};

use hostler_model::ImageDigest;

use super::{Images, MANIFEST, touch};
use crate::{
    handler::Failure,
    hypervisor::{Found, Hypervisor},
};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(600);
/// How long an image is kept that nobody uses: people come back after a holiday.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long one is kept while the disk is getting full: not to fetch it again with the next machine.
const KEPT_WHEN_FULL: Duration = Duration::from_secs(3600);
/// How full the disk may get, in percent.
const FULL: u64 = 85;

/// Looks again and again, and removes what is not needed.
pub async fn collect(images: &Images, hypervisor: &dyn Hypervisor) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(failure) = pass(images, hypervisor, SystemTime::now()).await {
            tracing::warn!(why = failure.detail, "images that nobody needs cannot be removed");
        }
    }
}

/// Every image that a machine on this host is made of.
///
/// # Errors
/// When that is not known of each of them.
pub async fn used(hypervisor: &dyn Hypervisor) -> Result<BTreeSet<ImageDigest>, Failure> {
    let finds = hypervisor.find().await?;
    let unknown = || Failure {
        code: hostler_model::error::Code::ImageInUse,
        detail: "a machine on this node cannot be read, so what it is made of is not known; look at the agent's log"
            .to_owned(),
        retryable: true,
    };
    if !finds.unread.is_empty() || finds.found.iter().any(|found| found.alive && found.image.is_none()) {
        return Err(unknown());
    }
    Ok(finds.found.into_iter().filter_map(|Found { image, .. }| image).collect())
}

async fn pass(images: &Images, hypervisor: &dyn Hypervisor, now: SystemTime) -> Result<(), Failure> {
    let used = used(hypervisor).await?;
    let idle = idle(images, &used, now);
    let full = is_full(&images.0.dir);
    for digest in to_remove(idle, full) {
        // Asked again under the image's own lock: a machine may have been made meanwhile.
        match images.remove(&digest, self::used(hypervisor)).await {
            Ok(_) => tracing::info!(image = %digest, "an image that nobody needs was removed"),
            Err(failure) => tracing::info!(image = %digest, why = failure.detail, "an image stays"),
        }
        if full && !is_full(&images.0.dir) {
            break;
        }
    }
    Ok(())
}

/// The images that no machine is made of, and for how long nobody has used them.
fn idle(images: &Images, used: &BTreeSet<ImageDigest>, now: SystemTime) -> Vec<(Duration, ImageDigest)> {
    let mut idle = Vec::new();
    for digest in images.list().into_iter().map(ImageDigest) {
        let dir = images.0.dir.join(&digest.0);
        if used.contains(&digest) || images.is_pinned(&digest) {
            touch(&dir);
            continue;
        }
        let last = fs::metadata(dir.join(MANIFEST)).and_then(|metadata| metadata.modified());
        idle.extend(last.ok().map(|last| (now.duration_since(last).unwrap_or_default(), digest)));
    }
    idle
}

/// Those that go, the longest unused first.
fn to_remove(mut idle: Vec<(Duration, ImageDigest)>, full: bool) -> Vec<ImageDigest> {
    let kept = if full { KEPT_WHEN_FULL } else { KEPT };
    idle.retain(|(unused, _)| *unused > kept);
    idle.sort_by(|a, b| b.cmp(a));
    idle.into_iter().map(|(_, digest)| digest).collect()
}

fn is_full(dir: &std::path::Path) -> bool {
    let Ok(found) = rustix::fs::statvfs(dir) else { return false };
    let (all, free) = (found.f_blocks.max(1), found.f_bavail);
    (all.saturating_sub(free)).saturating_mul(100) / all >= FULL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_first_and_sooner_when_the_disk_gets_full() {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let idle = || {
            [(0, "new"), (2, "today"), (24 * 40, "old"), (24 * 90, "ancient")]
                .map(|(age, name)| (hours(age), ImageDigest(name.into())))
                .to_vec()
        };
        let names = |digests: Vec<ImageDigest>| Vec::from_iter(digests.into_iter().map(|digest| digest.0));
        assert_eq!(names(to_remove(idle(), false)), ["ancient", "old"]);
        assert_eq!(names(to_remove(idle(), true)), ["ancient", "old", "today"]);
    }
}
