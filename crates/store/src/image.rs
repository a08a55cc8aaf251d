//! Images: manifests by their digest, and the names that stand for them.

use hostler_model::{ImageDigest, TenantId, Timestamp, image::Image};
use hostler_sqlite::{Result, Row, Tx};
use serde_json::json;

const INSERT: &str = "
INSERT INTO images (tenant, digest, manifest, created_at)
VALUES (?1->>'tenant', ?1->>'digest', ?1->>'manifest', CAST(?1->>'created_at' AS BIGINT))
    ON CONFLICT (tenant, digest) DO NOTHING";

const NAME: &str = "
INSERT INTO image_names (tenant, name, digest)
VALUES (?1->>'tenant', ?1->>'name', ?1->>'digest')
    ON CONFLICT (tenant, name) DO UPDATE
   SET digest = excluded.digest
 WHERE image_names.digest <> excluded.digest";

/// Writes an image, and lets its name stand for it from now on; says whether that changed anything.
pub(crate) fn put(tx: &Tx<'_>, image: &Image) -> Result<bool> {
    let row = json!({
        "tenant": image.tenant, "digest": image.digest, "manifest": image.manifest, "name": image.manifest.name,
        "created_at": image.created_at.as_micros(),
    });
    Ok(tx.execute(INSERT, &row)? + tx.execute(NAME, &row)? > 0)
}

const BY_NAME: &str = "
SELECT i.digest, i.tenant, i.manifest, i.created_at
  FROM image_names n
  JOIN images i ON i.tenant = n.tenant AND i.digest = n.digest
 WHERE n.tenant = ?1->>'tenant' AND n.name = ?1->>'name'";

/// What a name stands for now.
pub(crate) fn by_name(tx: &Tx<'_>, tenant: TenantId, name: &str) -> Result<Option<Image>> {
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

const OF_TENANT: &str = "
SELECT digest, tenant, manifest, created_at
  FROM images
 WHERE tenant = ?1->>'tenant'
 ORDER BY created_at DESC, digest";

/// A tenant's images, newest first.
pub(crate) fn of_tenant(tx: &Tx<'_>, tenant: TenantId) -> Result<Vec<Image>> {
    tx.query(OF_TENANT, &json!({"tenant": tenant}), read)
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
pub(crate) const HOT: &[&str] = &[BY_NAME, BY_DIGEST, OF_TENANT];
