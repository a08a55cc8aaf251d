//! Images: manifests by their digest, and the names that stand for them.

use std::collections::{BTreeMap, BTreeSet};

use hostler_db::{Document, Result, Row, Tx};
use hostler_model::{
    ImageDigest, TenantId, Timestamp,
    image::{Image, Sha256Hex},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Uses;

/// How many machines a refusal names.
const USERS: usize = 10;

const INSERT: &str = "
INSERT INTO images (tenant, digest, manifest, created_at)
VALUES (?1->>'tenant', ?1->>'digest', ?1->>'manifest', CAST(?1->>'created_at' AS BIGINT))
    ON CONFLICT (tenant, digest) DO NOTHING";

const NAME: &str = "
INSERT INTO image_names (tenant, name, digest, shipped)
VALUES (?1->>'tenant', ?1->>'name', ?1->>'digest', 0)
    ON CONFLICT (tenant, name) DO UPDATE
   SET digest = excluded.digest, shipped = 0
 WHERE image_names.digest <> excluded.digest OR image_names.shipped <> 0";

const NAME_SHIPPED: &str = "
INSERT INTO image_names (tenant, name, digest, shipped)
VALUES (?1->>'tenant', ?1->>'name', ?1->>'digest', 1)
    ON CONFLICT (tenant, name) DO UPDATE
   SET digest = excluded.digest
 WHERE image_names.digest <> excluded.digest AND image_names.shipped <> 0";

/// Whether an image came with the software or by somebody's will.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody's, whose name for it holds from now on.
    #[default]
    Asked,
    /// It takes its name only where nothing has it, or what was shipped before.
    Shipped,
}

/// Writes an image, and lets its name stand for it from now on; says whether that changed anything.
pub(crate) fn put(tx: &Tx<'_>, image: &Image, origin: Origin) -> Result<bool> {
    let row = json!({
        "tenant": image.tenant, "digest": image.digest, "manifest": Document(&image.manifest), "name": image.manifest.name,
        "created_at": image.created_at.as_micros(),
    });
    let name = match origin {
        Origin::Asked => NAME,
        Origin::Shipped => NAME_SHIPPED,
    };
    Ok(tx.execute(INSERT, &row)? + tx.execute(name, &row)? > 0)
}

const BY_NAME: &str = "
SELECT i.digest, i.tenant, i.manifest, i.created_at
  FROM image_names n
  JOIN images i ON i.tenant = n.tenant AND i.digest = n.digest
 WHERE n.tenant = ?1->>'tenant' AND n.name = ?1->>'name'";

/// What a name stands for now.
pub(crate) fn by_name(tx: &Tx<'_>, tenant: TenantId, name: &str) -> Result<Option<Image>> {
    // No name has one, and PostgreSQL takes none in a text.
    if name.contains('\0') {
        return Ok(None);
    }
    tx.query_one(BY_NAME, &json!({"tenant": tenant, "name": name}), read)
}

const BY_DIGEST: &str = "
SELECT digest, tenant, manifest, created_at
  FROM images
 WHERE digest = ?1->>'digest'
 ORDER BY tenant
 LIMIT 1";

/// The image of this digest, whoever put it there: a manifest is the same for all.
pub(crate) fn by_digest(tx: &Tx<'_>, digest: &ImageDigest) -> Result<Option<Image>> {
    tx.query_one(BY_DIGEST, &json!({"digest": digest}), read)
}

const OF_TENANT_AND_DIGEST: &str = "
SELECT digest, tenant, manifest, created_at
  FROM images
 WHERE tenant = ?1->>'tenant' AND digest = ?1->>'digest'";

/// A tenant's image of this digest.
pub(crate) fn of_tenant_and_digest(tx: &Tx<'_>, tenant: TenantId, digest: &ImageDigest) -> Result<Option<Image>> {
    tx.query_one(OF_TENANT_AND_DIGEST, &json!({"tenant": tenant, "digest": digest}), read)
}

const KNOWN: &str = "
SELECT i.tenant, i.digest
  FROM jsonb_each(?1) wanted
  JOIN images i ON i.tenant = wanted.value->>0 AND i.digest = wanted.value->>1";

/// Those of these that are there.
pub(crate) fn known(
    tx: &Tx<'_>,
    wanted: &BTreeSet<(TenantId, ImageDigest)>,
) -> Result<BTreeSet<(TenantId, ImageDigest)>> {
    Ok(tx.query(KNOWN, wanted, |row| Ok((row.parse(0)?, ImageDigest(row.get(1)?))))?.into_iter().collect())
}

const OF_TENANT: &str = "
SELECT digest, tenant, manifest, created_at
  FROM images
 WHERE tenant = ?1->>'tenant'
 ORDER BY created_at DESC, digest";

/// A tenant's images, newest first.
pub(crate) fn of_tenant(tx: &Tx<'_>, tenant: TenantId) -> Result<Vec<Image>> {
    tx.query(OF_TENANT, &json!({"tenant": tenant}), read)
}

/// Lets a name stand for an image from now on; says whether that changed anything.
pub(crate) fn name(tx: &Tx<'_>, tenant: TenantId, name: &str, digest: &ImageDigest) -> Result<bool> {
    Ok(tx.execute(NAME, &json!({"tenant": tenant, "name": name, "digest": digest}))? > 0)
}

const UNNAME: &str = "DELETE FROM image_names WHERE tenant = ?1->>'tenant' AND name = ?1->>'name'";

/// A name stands for nothing; says whether it stood for something.
pub(crate) fn unname(tx: &Tx<'_>, tenant: TenantId, name: &str) -> Result<bool> {
    Ok(tx.execute(UNNAME, &json!({"tenant": tenant, "name": name}))? > 0)
}

const NAMES_OF: &str = "
SELECT name
  FROM image_names
 WHERE tenant = ?1->>'tenant' AND digest = ?1->>'digest'
 ORDER BY name";

/// What stands for an image.
pub(crate) fn names(tx: &Tx<'_>, tenant: TenantId, digest: &ImageDigest) -> Result<Vec<String>> {
    tx.query(NAMES_OF, &json!({"tenant": tenant, "digest": digest}), |row| row.get(0))
}

const DELETE: &str = "DELETE FROM images WHERE tenant = ?1->>'tenant' AND digest = ?1->>'digest'";
const DELETE_NAMES: &str = "DELETE FROM image_names WHERE tenant = ?1->>'tenant' AND digest = ?1->>'digest'";

/// Removes an image and its names.
pub(crate) fn delete(tx: &Tx<'_>, tenant: TenantId, digest: &ImageDigest) -> Result<()> {
    let which = json!({"tenant": tenant, "digest": digest});
    tx.put(DELETE_NAMES, &which)?;
    tx.put(DELETE, &which)?;
    Ok(())
}

const USERS_OF: &str = "
SELECT name
  FROM vms
 WHERE tenant = ?1->>'tenant' AND image_digest = ?1->>'digest' AND state <> 'deleted'
 ORDER BY name
 LIMIT CAST(?1->>'limit' AS BIGINT)";

/// Some of the machines that are made of an image, by name.
pub(crate) fn users(tx: &Tx<'_>, tenant: TenantId, digest: &ImageDigest) -> Result<Vec<String>> {
    tx.query(USERS_OF, &json!({"tenant": tenant, "digest": digest, "limit": USERS}), |row| row.get(0))
}

const NAMES: &str = "SELECT digest, name FROM image_names WHERE tenant = ?1->>'tenant' ORDER BY name";
const COUNTS: &str = "
SELECT i.digest, COUNT(v.id)
  FROM images i
  JOIN vms v ON v.image_digest = i.digest AND v.tenant = i.tenant AND v.state <> 'deleted'
 WHERE i.tenant = ?1->>'tenant'
 GROUP BY i.digest";

/// What stands for a tenant's images, and how many machines are made of each.
pub(crate) fn uses(tx: &Tx<'_>, tenant: TenantId) -> Result<Uses> {
    let which = json!({"tenant": tenant});
    let mut uses = Uses::default();
    for (digest, name) in tx.query(NAMES, &which, |row| Ok((ImageDigest(row.get(0)?), row.get::<String>(1)?)))? {
        uses.entry(digest).or_default().0.push(name);
    }
    for (digest, count) in tx.query(COUNTS, &which, |row| Ok((ImageDigest(row.get(0)?), row.get::<i64>(1)?)))? {
        uses.entry(digest).or_default().1 = count;
    }
    Ok(uses)
}

const MANIFESTS: &str = "SELECT digest, tenant, manifest, created_at FROM images";

/// The blobs that anybody's images are made of.
pub(crate) fn blobs(tx: &Tx<'_>) -> Result<BTreeSet<Sha256Hex>> {
    let images = tx.query(MANIFESTS, &json!({}), read)?;
    Ok(images.into_iter().flat_map(|image| image.manifest.files.into_values()).map(|file| file.sha256).collect())
}

/// The sizes of a tenant's blobs in bytes, each once.
pub(crate) fn sizes(tx: &Tx<'_>, tenant: TenantId) -> Result<BTreeMap<Sha256Hex, u64>> {
    let files = of_tenant(tx, tenant)?.into_iter().flat_map(|image| image.manifest.files.into_values());
    Ok(files.map(|file| (file.sha256, file.size)).collect())
}

const LIMIT: &str = "SELECT limit_images_gib FROM tenants WHERE id = ?1->>'tenant'";

/// How many GiB a tenant's images may have; -1 is no limit.
pub(crate) fn limit(tx: &Tx<'_>, tenant: TenantId) -> Result<i64> {
    Ok(tx.query_one(LIMIT, &json!({"tenant": tenant}), |row| row.get(0))?.unwrap_or(-1))
}

fn read(row: &Row<'_>) -> Result<Image> {
    Ok(Image {
        digest: ImageDigest(row.get(0)?),
        tenant: row.parse(1)?,
        manifest: row.json(2)?,
        created_at: Timestamp::from_micros(row.get(3)?),
    })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[
    BY_NAME,
    BY_DIGEST,
    KNOWN,
    OF_TENANT,
    USERS_OF,
    NAMES,
    COUNTS,
    INSERT,
    NAME,
    NAME_SHIPPED,
    OF_TENANT_AND_DIGEST,
    UNNAME,
    NAMES_OF,
    DELETE,
    DELETE_NAMES,
    LIMIT,
];
