//! `?tenant=`: on whose things a call is. It is taken out of the address before a handler reads the rest, so that every
//! route of tenants has it and none needs to know. Never here: whether the caller may.

use hostler_model::{Code, Refusal};
use http::{Uri, uri::PathAndQuery};
use percent_encoding::percent_decode_str;

/// The parameter.
pub(super) const TENANT: &str = "tenant";

/// Takes the tenant out of an address, where one is named.
pub(super) fn take(uri: &mut Uri) -> Result<Option<String>, Refusal> {
    let Some(query) = uri.query() else { return Ok(None) };
    let (named, rest): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| pair.split('=').next() == Some(TENANT));
    let named = match named.as_slice() {
        [] => return Ok(None),
        [pair] => value(pair)?,
        _ => return Err(Refusal::field(TENANT, "it stands in the address twice; name one")),
    };
    let path = uri.path();
    let address = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(address).ok();
    *uri = Uri::from_parts(parts).map_err(|_| Refusal::new(Code::ValidationError, "the address cannot be read"))?;
    Ok(Some(named))
}

fn value(pair: &str) -> Result<String, Refusal> {
    let text = pair.split_once('=').map_or("", |(_, text)| text);
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if !text.is_empty() => Ok(text.into_owned()),
        Ok(_) | Err(_) => Err(Refusal::field(TENANT, "a tenant's id or name belongs here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(address: &str) -> (Option<String>, String) {
        let mut uri: Uri = address.parse().unwrap();
        let named = take(&mut uri).unwrap();
        (named, uri.to_string())
    }

    #[test]
    fn what_else_stands_in_the_address_stays_as_it_is() {
        assert_eq!(
            taken("/vms?limit=1&tenant=acme&state=running"),
            (Some("acme".into()), "/vms?limit=1&state=running".into())
        );
        assert_eq!(taken("/vms?tenant=%61cme"), (Some("acme".into()), "/vms".into()));
        assert_eq!(taken("http://h:1/vms?tenant=a"), (Some("a".into()), "http://h:1/vms".into()));
        for same in ["/vms", "/vms?limit=1", "/vms?tenants=a", "/vms?a=tenant"] {
            assert_eq!(taken(same), (None, same.to_owned()));
        }
    }

    #[test]
    fn one_tenant_is_named_or_none() {
        for wrong in ["/vms?tenant=a&tenant=b", "/vms?tenant=", "/vms?tenant", "/vms?tenant=%ff"] {
            let mut uri: Uri = wrong.parse().unwrap();
            assert_eq!(take(&mut uri).unwrap_err().facts["field"], "tenant", "{wrong}");
        }
    }
}
