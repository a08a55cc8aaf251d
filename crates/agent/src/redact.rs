//! What a guest says may hold what it was told: its console and its logs are shown in errors, and user-data may hold
//! secrets. Whatever stands in the user-data as a word of its own is blotted out of what is shown.
//!
//! This is a second line of defence: a guest that says a secret in other words is its owner's affair.

/// Shorter words stay: they are too common, and no secret.
const SHORTEST: usize = 6;

/// What stands in place of a word.
const BLOT: &str = "[…]";

/// The text without the words of what is secret.
pub fn blot(text: &str, secret: &str) -> String {
    let mut words: Vec<&str> = secret.split(is_between).filter(|word| word.len() >= SHORTEST).collect();
    // A longer word may have a shorter one in it.
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    words.dedup();
    words.into_iter().fold(text.to_owned(), |text, word| text.replace(word, BLOT))
}

/// What stands between words in YAML, JSON and shell.
fn is_between(c: char) -> bool {
    c.is_whitespace() || "\"'`=:,;[]{}()<>|&$\\".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_secret_are_blotted_out_and_the_rest_stays() {
        let secret =
            "#cloud-config\n{\"runcmd\": [\"mysql -psesame-open --host=db1\"], \"chpasswd\": \"root:hunter22\"}\n";
        let text = "WARNING running 'mysql -psesame-open' failed: hunter22 is no password for db1";
        assert_eq!(blot(text, secret), "WARNING running 'mysql […]' failed: […] is no password for db1");
        assert_eq!(blot("nothing of it", secret), "nothing of it");
        assert_eq!(blot("as it was", ""), "as it was");
    }
}
