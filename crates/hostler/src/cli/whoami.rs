//! `hostler whoami`: who the token says that one is.

use hostler_model::token::Whoami;

use super::Globals;
use crate::{
    exit::{Exit, Failure},
    output,
};

/// Asks, and tells.
pub async fn run(globals: &Globals) -> Result<Exit, Failure> {
    let context = globals.server.context()?;
    let session = globals.session()?;
    let me = session.client.whoami().await?;
    session.print(&me, || told(&me, context.name.as_deref(), &context.url))?;
    Ok(Exit::Done)
}

fn told(me: &Whoami, context: Option<&str>, url: &str) -> String {
    output::fields([
        ("server", url.to_owned()),
        ("context", output::or_nothing(context)),
        ("principal", me.principal.to_string()),
        ("account", output::or_nothing(me.service_account.as_ref())),
        ("tenant", output::or_nothing(me.tenant)),
        ("audience", me.audience.to_string()),
        ("role", me.role.to_string()),
        ("scopes", me.scopes.words().unwrap_or_else(|| "all".to_owned())),
        ("token", output::or_nothing(me.token)),
        ("expires", output::or_nothing(me.expires_at)),
    ])
}
