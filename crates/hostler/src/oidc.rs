//! An identity provider, as the settings name it.

use std::{collections::BTreeMap, time::Duration};

use hostler_control::{Oidc, OidcConfig, oidc::Mapping};
use hostler_model::role::Role;

use crate::{
    exit::Failure,
    settings::{Server, in_file},
};

/// The provider whose tokens are believed, where one is named.
pub fn provider(settings: &Server) -> Result<Option<Oidc>, Failure> {
    let named = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let Some(issuer) = named(&settings.oidc_issuer) else { return Ok(None) };
    let client = named(&settings.oidc_client);
    let mut audiences = settings.oidc_audiences.0.clone();
    audiences.extend(client.clone());
    let config = OidcConfig {
        issuer,
        audiences,
        client,
        skew: Duration::from_secs(settings.oidc_skew_seconds),
        mapping: Mapping {
            tenant: settings.oidc_tenant_claim.clone(),
            roles: settings.oidc_roles_claim.clone(),
            words: roles(&settings.oidc_roles.0)?,
            scopes: named(&settings.oidc_scopes_claim),
        },
    };
    let help = format!("see {} and {}", in_file("oidc_issuer"), in_file("oidc_audiences"));
    Oidc::new(config).map(Some).map_err(|error| Failure::usage(error).help(help))
}

/// `ops=operator`, and others like it.
fn roles(pairs: &[String]) -> Result<BTreeMap<String, Role>, Failure> {
    let read = |pair: &String| {
        let (word, role) = pair.rsplit_once('=')?;
        Some((word.to_owned(), role.parse().ok()?))
    };
    let wrong = |pair: &String| {
        let known = Role::ALL.map(Role::as_str).join(", ");
        Failure::usage(format!("{}: {pair:?} is no WORD=ROLE", in_file("oidc_roles")))
            .help(format!("write it as staff=viewer; the roles are {known}"))
    };
    pairs.iter().map(|pair| read(pair).ok_or_else(|| wrong(pair))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Names;

    fn settings() -> Server {
        hostler_trust::install_crypto();
        Server { oidc_issuer: "https://login.example.com".into(), oidc_client: "cli".into(), ..Server::default() }
    }

    #[test]
    fn words_of_the_provider_become_roles() {
        let names = Names(vec!["cn=ops,ou=it=operator".into(), "root=platform-admin".into()]);
        let provider = provider(&Server { oidc_roles: names, ..settings() }).unwrap().unwrap();
        let words = &provider.config().mapping.words;
        assert_eq!((words["cn=ops,ou=it"], words["root"]), (Role::Operator, Role::PlatformAdmin));
        assert_eq!(provider.config().audiences, ["cli"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_a_server_starts() {
        assert!(provider(&Server::default()).unwrap().is_none());
        let king = Server { oidc_roles: Names(vec!["ops=king".into()]), ..settings() };
        let open = Server { oidc_issuer: "http://login.example.com".into(), ..settings() };
        let nobody = Server { oidc_client: String::new(), ..settings() };
        for wrong in [king, open, nobody] {
            let failure = provider(&wrong).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage);
            assert!(failure.lines()[1].1.contains("staff=viewer") || failure.lines()[1].1.contains("server.oidc_"));
        }
    }
}
