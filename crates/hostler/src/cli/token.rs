//! `hostler token`: credentials of people and programs, made, listed and revoked.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use hostler_model::{
    Clock, Timestamp,
    caller::Audience,
    name::Name,
    role::Role,
    scope::{Scope, Scopes},
    token::{IssuedToken, NewToken, Token, TokenFormat},
};
use hostler_trust::AccessIssuer;
use serde_json::json;

use super::{Globals, read};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

const CREATE: &str = "\
Examples:
  hostler token create laptop                                 your own, as your own credential, for 30 days
  hostler token create backup --role viewer --scope vm:read --scope snapshot:read --expires 90d
  hostler token create build --for ci                         for the service account `ci`
  hostler token create build --for ci --jwt                   a signed one, which others can verify
  hostler token create build --for ci --no-headers -o json | jq -r .token > token";

const REVOKE: &str = "\
Examples:
  hostler token revoke 0190f1f0-0000-7000-8000-000000000001
  hostler token revoke 0190f1f0-0000-7000-8000-000000000001 --with-made     also what was made with it";

const ROTATE: &str = "\
Examples:
  sudo -u hostler hostler token rotate-key --ca /var/lib/hostler/server/ca

Servers find the new key within seconds, publish it at /.well-known/jwks.json, and sign with it a minute later. What the
old one signed stays good until its time is up or it is revoked. Servers over one database have the same files.";

/// The verbs of tokens.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a token. It is shown only now, and may no more than what you make it with
    #[command(after_help = CREATE)]
    Create(CreateArgs),
    /// List the tokens that you may see: your own, or your tenant's if you answer for it
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler token list\n  hostler token list --all -o json")]
    List {
        /// Also those that are no longer good
        #[arg(long)]
        all: bool,
    },
    /// Revoke tokens: at once on the server that is asked, on others within 5 seconds
    #[command(after_help = REVOKE)]
    Revoke {
        /// Their ids
        #[arg(required = true)]
        token: Vec<String>,
        /// Also those that were made with them
        #[arg(long)]
        with_made: bool,
    },
    /// Put a new key for signed tokens into the folder of a server's authority; no server is asked
    #[command(after_help = ROTATE)]
    RotateKey {
        /// The folder of the certificate authority, as the server's `ca` says
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
    },
}

#[derive(clap::Args, Debug)]
struct CreateArgs {
    /// What it is for, in words
    label: String,
    /// The service account that it is for; without one it stands for yourself
    #[arg(long = "for", value_name = "ACCOUNT", value_parser = read::model::<Name>)]
    service_account: Option<Name>,
    /// What it may at most: viewer, operator, tenant-admin or platform-admin
    #[arg(long, value_name = "ROLE", value_parser = read::model::<Role>)]
    role: Option<Role>,
    /// For whose work: tenant, or admin for the platform's
    #[arg(long, value_name = "AUDIENCE", value_parser = read::model::<Audience>)]
    audience: Option<Audience>,
    /// Only this, such as vm:read or task:write; may be repeated
    #[arg(long, value_name = "SCOPE", value_parser = read::model::<Scope>)]
    scope: Vec<Scope>,
    /// How long it is good, such as 12h or 90d [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = days)]
    expires: Option<Duration>,
    /// A signed token (JWT), which others can verify by the server's published keys
    #[arg(long)]
    jwt: bool,
}

/// `90d`, or a time as elsewhere.
pub(super) fn days(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) => Ok(Duration::from_secs(u64::from(days) * 24 * 3600)),
        Some(Err(_)) | None => read::duration(text).map_err(|_| "a time is written like 90d, 12h or 30m".to_owned()),
    }
}

impl From<CreateArgs> for NewToken {
    fn from(args: CreateArgs) -> NewToken {
        let CreateArgs { label, service_account, role, audience, scope, expires, jwt } = args;
        NewToken {
            label,
            service_account,
            role,
            audience,
            scopes: if scope.is_empty() { Scopes::All } else { Scopes::Only(scope.into_iter().collect()) },
            expires_in_seconds: expires.map(|time| time.as_secs()),
            format: if jwt { TokenFormat::Jwt } else { TokenFormat::Opaque },
        }
    }
}

/// Runs a verb of tokens.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    if let Verb::RotateKey { ca } = args.verb {
        return rotate(&ca, globals);
    }
    let session = globals.session()?;
    match args.verb {
        Verb::Create(args) => {
            let issued = session.client.make_token(&args.into()).await?;
            session.print(&issued, || told(&issued))?;
        }
        Verb::List { all } => {
            let mut tokens = session.client.tokens(None).await?;
            let now = session.now();
            tokens.retain(|token| all || token.is_good(now));
            session.print(&tokens, || table(&tokens, now))?;
        }
        Verb::Revoke { token, with_made } => {
            for id in token {
                let revoked = session.client.revoke_token(&id, with_made).await?;
                session.print(&revoked, || format!("revoked  {}  {}\n", revoked.id, revoked.label))?;
            }
        }
        Verb::RotateKey { .. } => {}
    }
    Ok(Exit::Done)
}

fn rotate(ca: &std::path::Path, globals: &Globals) -> Result<Exit, Failure> {
    if !ca.is_dir() {
        return Err(Failure::usage(format!("{} is not a folder", ca.display()))
            .help("--ca is the folder of the server's certificate authority: `ca` in its data folder, unless its configuration says otherwise"));
    }
    let kid = AccessIssuer::rotate(ca, Clock::system().now())
        .map_err(|error| Failure::new(Exit::Failed, error).help("run it as the user that the server runs as"))?;
    let format = globals.output.output;
    let text = if format.is_data() { format.document(&json!({"kid": kid}))? } else { output::fields([("kid", kid)]) };
    output::text(&text)?;
    Ok(Exit::Done)
}

fn scopes(token: &Token) -> String {
    token.scopes.words().unwrap_or_else(|| "all".to_owned())
}

fn told(issued: &IssuedToken) -> String {
    let about = &issued.about;
    output::fields([
        ("token", issued.token.clone()),
        ("id", about.id.to_string()),
        ("for", output::or_nothing(about.service_account.as_ref())),
        ("role", about.role.to_string()),
        ("scopes", scopes(about)),
        ("expires", output::or_nothing(about.expires_at)),
        ("use", "it is not shown again: keep it where only its user can read it".to_owned()),
    ])
}

fn table(tokens: &[Token], now: Timestamp) -> Table {
    let rows = tokens.iter().map(|token| {
        let state = match (token.revoked_at, token.expires_at) {
            (Some(_), _) => "revoked".to_owned(),
            (None, Some(until)) if until <= now => "expired".to_owned(),
            (None, Some(until)) => output::took(until.since(now)),
            (None, None) => "no end".to_owned(),
        };
        [
            token.id.to_string(),
            token.label.clone(),
            output::or_dash(token.service_account.as_ref()),
            token.role.to_string(),
            scopes(token),
            state,
        ]
    });
    output::table(["ID", "LABEL", "FOR", "ROLE", "SCOPES", "EXPIRES"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_be_days() {
        assert_eq!(days("90d"), Ok(Duration::from_secs(90 * 86400)));
        assert_eq!(days("12h"), Ok(Duration::from_secs(12 * 3600)));
        assert!(days("d").is_err() && days("-1d").is_err() && days("soon").is_err());
    }
}
