//! Tenants: `/api/v1/tenants`.

use hostler_model::{
    Code,
    tenant::{NewTenant, Tenant, TenantPatch},
};

use crate::{
    Client, ClientError, Mode,
    call::{Call, segment},
};

fn path(tenant: &str) -> Result<String, ClientError> {
    Ok(format!("/api/v1/tenants/{}", segment(tenant, Code::NotFound)?))
}

impl Client {
    /// Every tenant, newest first.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, ClientError> {
        self.every(Call::get("/api/v1/tenants"), None).await
    }

    /// One tenant, by id or name.
    pub async fn tenant(&self, tenant: &str) -> Result<Tenant, ClientError> {
        self.call(Call::get(path(tenant)?)).await
    }

    /// Makes a tenant; sent again under the same key it is made once.
    pub async fn create_tenant(&self, new: &NewTenant, mode: Mode) -> Result<Tenant, ClientError> {
        let call = Call::post("/api/v1/tenants").json(new)?.header("idempotency-key", &self.fresh_key())?;
        self.call(call.query("dry_run", mode.dry_run())).await
    }

    /// Changes a tenant's name and limits. `generation`: only while it is of this one.
    pub async fn edit_tenant(
        &self,
        tenant: &str,
        patch: &TenantPatch,
        generation: Option<u32>,
        mode: Mode,
    ) -> Result<Tenant, ClientError> {
        let mut call = Call::patch(path(tenant)?).json(patch)?.query("dry_run", mode.dry_run());
        if let Some(generation) = generation {
            call = call.header("if-match", &format!("\"{generation}\""))?;
        }
        self.call(call).await
    }

    /// Deletes a tenant that has nothing; answers what it was.
    pub async fn delete_tenant(&self, tenant: &str, mode: Mode) -> Result<Tenant, ClientError> {
        self.once(Call::delete(path(tenant)?).query("dry_run", mode.dry_run())).await
    }
}
