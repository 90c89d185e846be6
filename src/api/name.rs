//! Names: what apimachinery's `validation` package accepts, in its words. An empty list means valid.
//!
//! Hand-written scanners, no regular expressions: they run on every write and every selector.

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const VALUE_FMT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                          and must start and end with an alphanumeric character";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                              characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
                            with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                              with an alphanumeric character";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' \
                          or '.', and must start and end with an alphanumeric character";
const EMPTY: &str = "must be non-empty";

/// A lower-case RFC 1123 label: at most 63 characters (Namespace, container, port names).
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(max_length(63));
    }
    if !is_label(value) {
        // A subdomain that is not a label has a dot: say so, as upstream does.
        errors.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            pattern(LABEL_TEXT, LABEL_FMT, &["my-name", "123-abc"])
        });
    }
    errors
}

/// A lower-case RFC 1123 subdomain: at most 253 characters (the name of most objects).
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(max_length(253));
    }
    if !is_subdomain(value) {
        errors.push(pattern(SUBDOMAIN_TEXT, SUBDOMAIN_FMT, &["example.com"]));
    }
    errors
}

/// An RFC 1035 label: at most 63 characters, starts with a letter (Service names).
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(max_length(63));
    }
    if !is_label(value) || !value.as_bytes()[0].is_ascii_lowercase() {
        errors.push(pattern(DNS1035_TEXT, DNS1035_FMT, &["my-name", "abc-123"]));
    }
    errors
}

/// `[DNS SUBDOMAIN/]NAME` (label and annotation keys, finalizers, conditions).
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let examples = &["MyName", "my.name", "123-abc"];
    let mut parts = value.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                errors.push(format!("prefix part {EMPTY}"));
            } else {
                errors.extend(dns1123_subdomain(first).iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            let text = pattern(QUALIFIED_TEXT, QUALIFIED_FMT, examples);
            let hint = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {text} {hint}")];
        }
    };
    if name.is_empty() {
        errors.push(format!("name part {EMPTY}"));
    } else if name.len() > 63 {
        errors.push(format!("name part {}", max_length(63)));
    }
    if !is_word(name) {
        errors.push(format!("name part {}", pattern(QUALIFIED_TEXT, QUALIFIED_FMT, examples)));
    }
    errors
}

/// A label's value: empty, or at most 63 characters.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(max_length(63));
    }
    if !value.is_empty() && !is_word(value) {
        errors.push(pattern(VALUE_TEXT, VALUE_FMT, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// A name that can stand in a URL path (RBAC objects): not `.` or `..`, no `/` or `%`.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A port name: RFC 6335 service name, at most 15 characters, with at least one letter.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push(max_length(15));
    }
    if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') || value.is_empty() {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A key of a ConfigMap or Secret: at most 253 of `[-._a-zA-Z0-9]`, not `.`, not starting with `..`.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(max_length(253));
    }
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(valid) {
        let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(pattern(text, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match value {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// An environment variable's name: since 1.34 any printable ASCII except `=`.
pub fn env_var_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Vec::new();
    }
    let text =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![pattern(text, "^[ -<>-~]+$", &[])]
}

/// A name made of `metadata.generateName`: the base, cut to 58 characters, and five random ones.
pub fn generate(base: &str) -> String {
    generate_with(base, rand::random())
}

/// As [`generate`], from given random bits.
pub fn generate_with(base: &str, mut random: u64) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let end = base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= 58).last();
    let mut name = base[..end.unwrap_or(0)].to_owned();
    for _ in 0..5 {
        let n = ALPHABET.len() as u64;
        name.push(char::from(ALPHABET[usize::try_from(random % n).expect("less than 27")]));
        random /= n;
    }
    name
}

fn is_label(value: &str) -> bool {
    let b = value.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(b.first())
        && edge(b.last())
        && b.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_word(value: &str) -> bool {
    let b = value.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(b.first())
        && edge(b.last())
        && b.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn max_length(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn pattern(text: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{format}')");
    }
    let examples: Vec<_> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        type Check = fn(&str) -> Vec<String>;
        fn check(f: Check, good: &[&str], bad: &[(&str, &str)]) {
            for value in good {
                assert_eq!(f(value), Vec::<String>::new(), "{value}");
            }
            for (value, text) in bad {
                let errors = f(value);
                assert!(errors.iter().any(|e| e.contains(text)), "{value}: {errors:?}");
            }
        }
        let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
             start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        check(dns1123_label, &["a", "a-b", "1"], &[("", label), ("A", label), ("-a", label), ("a-", label)]);
        check(dns1123_label, &[], &[("a.b", "must not contain dots")]);
        check(dns1123_label, &[], &[(&"a".repeat(64), "must be no more than 63 bytes")]);
        check(
            dns1123_subdomain,
            &["a.b", "a"],
            &[("a..b", "subdomain"), ("a_b", "(e.g. 'example.com', regex")],
        );
        check(dns1035_label, &["a1"], &[("1a", "a DNS-1035 label"), ("", "a DNS-1035 label")]);
        check(
            qualified_name,
            &["a", "k8s.io/A_b.c"],
            &[("a/b/c", "a qualified name must"), ("", "name part must")],
        );
        check(
            qualified_name,
            &[],
            &[("/a", "prefix part must be non-empty"), ("A/a", "prefix part a lowercase")],
        );
        check(label_value, &["", "A_b.c"], &[("-", "a valid label must"), ("a b", "a valid label must")]);
        check(path_segment, &["system:a"], &[("..", "may not be '..'"), ("a/b", "may not contain '/'")]);
        check(port_name, &["http"], &[("1", "at least one letter"), ("a--b", "consecutive")]);
        check(
            config_map_key,
            &["a.B_c"],
            &[("..a", "must not start with '..'"), ("a/b", "a valid config key")],
        );
    }

    #[test]
    fn generated_names_fit() {
        assert_eq!(generate_with("web-", 0), "web-bbbbb");
        assert_eq!(generate_with(&"x".repeat(80), 7).len(), 63);
        assert_ne!(generate("a"), generate("a"));
    }
}
