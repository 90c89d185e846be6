//! The `Authorization` header. Pure.

use http::{HeaderMap, header::AUTHORIZATION};

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header<'a> {
    /// There is none.
    Absent,
    /// `Bearer TOKEN`.
    Token(&'a str),
    /// Anything else: a scheme nobody here knows, an empty token, several headers.
    Unusable,
}

/// The bearer token of a request.
pub(crate) fn token(headers: &HeaderMap) -> Header<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(AUTHORIZATION) { Header::Unusable } else { Header::Absent };
    };
    let parsed = value.to_str().ok().and_then(|text| text.trim().split_once(' '));
    match parsed {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && is_token(token) => {
            Header::Token(token)
        }
        _ => Header::Unusable,
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let check = |values: &[&str], expect: Header<'_>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(token(&headers), expect, "{values:?}");
        };
        check(&[], Header::Absent);
        check(&["Bearer abc"], Header::Token("abc"));
        check(&["bearer abc"], Header::Token("abc"));
        check(&["Bearer  abc"], Header::Unusable);
        check(&["Bearer"], Header::Unusable);
        check(&["Bearer "], Header::Unusable);
        check(&[""], Header::Unusable);
        check(&["Basic YTpi"], Header::Unusable);
        check(&["Bearer a", "Bearer b"], Header::Unusable);
        check(&["Bearer a b"], Header::Unusable);
    }
}
