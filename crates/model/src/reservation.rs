//! Reservations: what an administrator holds for a tenant by hand, for a while. Held, it counts like anything that the
//! tenant has; it is given back when it is released or its time is up, once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    amounts::Amounts,
    book::Book,
    clock::Timestamp,
    error::Refusal,
    id::{NodeId, PrincipalId, ReservationId, TenantId},
};

/// How long one lasts where nothing is said.
pub const USUAL: Duration = Duration::from_secs(15 * 60);
/// How long one lasts at most: what is meant for longer is a limit.
pub const LONGEST: Duration = Duration::from_secs(90 * 24 * 3600);
/// How many characters a reason may have.
const REASON: usize = 200;
/// More of anything than there is anywhere.
const ABSURD: i64 = 1 << 40;

/// A reservation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// For which tenant.
    pub tenant: TenantId,
    /// How much.
    pub amount: Amounts,
    /// What for, in words.
    pub reason: String,
    /// Who made it.
    pub created_by: PrincipalId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// A reservation that is asked for: `POST /tenants/{tenant}/reservations`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewReservation {
    /// How much; what is not named is 0.
    pub amount: Amounts,
    /// What for, in words.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
    /// After how many seconds it ends by itself; 900 where nothing is said, at most 7,776,000 (90 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 7_776_000)]
    pub expires_in_seconds: Option<u64>,
}

impl NewReservation {
    /// Until when it lasts.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` for what is no amount, reason or time.
    pub fn check(&self, now: Timestamp) -> Result<Timestamp, Refusal> {
        let amounts = self.amount.each();
        if let Some((name, amount)) = amounts.iter().find(|(_, amount)| !(0..=ABSURD).contains(amount)) {
            return Err(Refusal::field(&format!("amount.{name}"), format!("{amount} is not between 0 and {ABSURD}")));
        }
        if self.amount.is_zero() {
            return Err(Refusal::field("amount", "nothing is asked for; name at least one amount"));
        }
        let reason = self.reason.trim();
        if reason.is_empty() || reason.chars().count() > REASON || reason.chars().any(char::is_control) {
            return Err(Refusal::field("reason", format!("1 to {REASON} characters that say what it is for")));
        }
        let seconds = self.expires_in_seconds.unwrap_or(USUAL.as_secs());
        if seconds == 0 || seconds > LONGEST.as_secs() {
            let longest = LONGEST.as_secs();
            return Err(Refusal::field("expires_in_seconds", format!("{seconds} is not between 1 and {longest}")));
        }
        Ok(now.plus(Duration::from_secs(seconds)))
    }
}

/// What a recalculation came to: `POST /tenants/{tenant}/quota/recalculate`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Recalculated {
    /// Whose.
    pub tenant: TenantId,
    /// The book as it was kept.
    pub kept: Book,
    /// The sum of what exists: the book from now on.
    pub book: Book,
    /// Whether the two differed.
    pub differed: bool,
}

/// What a recalculation of a node's book came to: `POST /nodes/{node}/recalculate`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RecalculatedNode {
    /// Whose.
    pub node: NodeId,
    /// The book as it was kept.
    pub kept: Book,
    /// The sum of what is there: the book from now on.
    pub book: Book,
    /// Whether the two differed.
    pub differed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(vms: i64) -> NewReservation {
        NewReservation { amount: Amounts { vms, ..Amounts::ZERO }, reason: "a fair".into(), expires_in_seconds: None }
    }

    #[test]
    fn a_reservation_ends_by_itself_and_says_what_for() {
        let now = Timestamp::from_micros(0);
        assert_eq!(new(1).check(now), Ok(now.plus(USUAL)));
        let field = |new: NewReservation| new.check(now).unwrap_err().facts["field"].clone();
        assert_eq!(field(new(-1)), "amount.vms");
        assert_eq!(field(new(0)), "amount");
        assert_eq!(field(NewReservation { reason: " ".into(), ..new(1) }), "reason");
        for seconds in [0, LONGEST.as_secs() + 1] {
            assert_eq!(field(NewReservation { expires_in_seconds: Some(seconds), ..new(1) }), "expires_in_seconds");
        }
    }
}
