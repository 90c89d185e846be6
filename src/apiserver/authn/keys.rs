//! The service-account keys: signing and verifying tokens (JWT, ES256/ES384/RS256) and publishing the public
//! halves. Pure but for reading the files once at start.
//!
//! A token's algorithm is fixed by the key that verifies it, never by the token: `none` and HMAC do not exist.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Error;
use crate::flags::Flags;

/// How far another master's clock may be ahead when its fresh token is checked.
const CLOCK_SKEW: i64 = 10;
/// Longer tokens are not even looked at.
const LONGEST: usize = 16 * 1024;

/// The claims of a service-account token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) aud: Vec<String>,
    /// Seconds since 1970.
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Private,
    #[serde(default)]
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// What the token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Private {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Ref>,
    pub(crate) serviceaccount: Ref,
    /// When clients should have asked for a new one, for tokens that live longer than promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warnafter: Option<i64>,
}

/// One object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ref {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

struct PublicKey {
    id: String,
    algorithm: Algorithm,
    key: DecodingKey,
    jwk: Jwk,
}

/// All keys that verify, and the one that signs.
pub(crate) struct Keys {
    public: Vec<PublicKey>,
    signer: Option<(String, Algorithm, EncodingKey)>,
}

impl Keys {
    /// Reads `--service-account-key-file` and `--service-account-signing-key-file`. Without a key file the
    /// signing key also verifies.
    pub(crate) fn new(flags: &Flags) -> Result<Self, Error> {
        let mut keys = Self { public: Vec::new(), signer: None };
        for path in &flags.service_account_key_file {
            let pem = serve::pem::read(path, "service-account key")?;
            keys.verify_with(&pem)
                .map_err(|source| Error::Key { path: path.display().to_string(), source })?;
        }
        if let Some(path) = &flags.service_account_signing_key_file {
            let pem = serve::pem::read(path, "service-account key")?;
            keys.sign_with(&pem).map_err(|source| Error::Key { path: path.display().to_string(), source })?;
        }
        Ok(keys)
    }

    /// Adds a key, public or private, that verifies tokens.
    fn verify_with(&mut self, pem: &[u8]) -> jsonwebtoken::errors::Result<()> {
        let own = private(pem).and_then(|(key, algorithm)| Jwk::from_encoding_key(&key, algorithm));
        self.add(own.or_else(|_| public(pem))?)
    }

    /// Sets the key that signs; it also verifies.
    fn sign_with(&mut self, pem: &[u8]) -> jsonwebtoken::errors::Result<()> {
        let (key, algorithm) = private(pem)?;
        let jwk = Jwk::from_encoding_key(&key, algorithm)?;
        let id = jwk.thumbprint(ThumbprintHash::SHA256)?;
        if !self.public.iter().any(|known| known.id == id) {
            self.add(jwk)?;
        }
        self.signer = Some((id, algorithm, key));
        Ok(())
    }

    fn add(&mut self, mut jwk: Jwk) -> jsonwebtoken::errors::Result<()> {
        let algorithm = algorithm_of(&jwk);
        let id = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_algorithm = Some(algorithm.into());
        jwk.common.key_id = Some(id.clone());
        self.public.push(PublicKey { id, algorithm, key: DecodingKey::from_jwk(&jwk)?, jwk });
        Ok(())
    }

    /// Signs; `None` without a signing key.
    pub(crate) fn sign(&self, claims: &Claims) -> Option<String> {
        let (id, algorithm, key) = self.signer.as_ref()?;
        let header = Header { typ: None, kid: Some(id.clone()), ..Header::new(*algorithm) };
        jsonwebtoken::encode(&header, claims, key).ok()
    }

    /// The claims of a token that one of the keys signed. Says nothing about times, audience or issuer.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        if token.len() > LONGEST {
            return None;
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        let named = |key: &&PublicKey| header.kid.as_ref().is_none_or(|id| *id == key.id);
        // Another implementation may number the same keys differently: a foreign id is no reason to refuse.
        let known = self.public.iter().any(|key| named(&key));
        let candidates = self.public.iter().filter(|key| !known || named(key));
        candidates.filter(|key| key.algorithm == header.alg).find_map(|key| {
            let mut validation = Validation::new(key.algorithm);
            validation.required_spec_claims.clear();
            (validation.validate_exp, validation.validate_nbf, validation.validate_aud) =
                (false, false, false);
            jsonwebtoken::decode::<Claims>(token, &key.key, &validation).ok().map(|data| data.claims)
        })
    }

    /// The public keys as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": self.public.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
    }

    /// Names of the signing algorithms, for OIDC discovery.
    pub(crate) fn algorithms(&self) -> Vec<String> {
        let mut names: Vec<String> = self.public.iter().map(|key| format!("{:?}", key.algorithm)).collect();
        names.sort();
        names.dedup();
        names
    }
}

fn private(pem: &[u8]) -> jsonwebtoken::errors::Result<(EncodingKey, Algorithm)> {
    let Ok(key) = EncodingKey::from_ec_pem(pem) else {
        return Ok((EncodingKey::from_rsa_pem(pem)?, Algorithm::RS256));
    };
    // The curve decides between ES256 and ES384; only the right one can read the key.
    let readable = |algorithm: &Algorithm| Jwk::from_encoding_key(&key, *algorithm).is_ok();
    let algorithm = [Algorithm::ES256, Algorithm::ES384].into_iter().find(readable);
    Ok((key, algorithm.unwrap_or(Algorithm::ES256)))
}

fn public(pem: &[u8]) -> jsonwebtoken::errors::Result<Jwk> {
    let key = DecodingKey::from_ec_pem(pem).or_else(|_| DecodingKey::from_rsa_pem(pem))?;
    Jwk::from_decoding_key(&key, None)
}

fn algorithm_of(jwk: &Jwk) -> Algorithm {
    match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P384 => Algorithm::ES384,
        AlgorithmParameters::EllipticCurve(_) => Algorithm::ES256,
        _ => Algorithm::RS256,
    }
}

/// What is wrong with a token's times, issuer or audience; otherwise the audiences it is good for.
pub(crate) fn check_claims(
    claims: &Claims,
    issuers: &[String],
    wanted: &[String],
    now: i64,
) -> Result<Vec<String>, String> {
    if !issuers.contains(&claims.iss) {
        return Err("invalid token issuer".into());
    }
    if now >= claims.exp {
        return Err("service account token has expired".into());
    }
    if now + CLOCK_SKEW < claims.nbf || now + CLOCK_SKEW < claims.iat {
        return Err("service account token is not valid yet".into());
    }
    let audiences: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
    if audiences.is_empty() {
        return Err(format!(
            "token audiences {:?} is invalid for the target audiences {wanted:?}",
            claims.aud
        ));
    }
    Ok(audiences)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use rcgen::KeyPair;

    /// Keys made for a test: (private PEM, public PEM).
    fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        (key.serialize_pem(), key.public_key_pem())
    }

    /// Keys that sign and verify.
    pub(crate) fn signer() -> Keys {
        let mut keys = Keys { public: Vec::new(), signer: None };
        keys.sign_with(pair(&rcgen::PKCS_ECDSA_P256_SHA256).0.as_bytes()).unwrap();
        keys
    }

    fn claims() -> Claims {
        Claims {
            aud: vec!["api".into()],
            exp: 2000,
            iat: 1000,
            nbf: 1000,
            iss: "https://issuer".into(),
            jti: "id".into(),
            sub: "system:serviceaccount:a:sam".into(),
            kubernetes: Private {
                namespace: "a".into(),
                serviceaccount: Ref { name: "sam".into(), uid: "u1".into() },
                pod: Some(Ref { name: "p".into(), uid: "u2".into() }),
                ..Private::default()
            },
        }
    }

    #[test]
    fn what_one_signs_the_other_verifies() {
        for algorithm in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256]
        {
            let (private, public) = pair(algorithm);
            let (mut signer, mut verifier) =
                (Keys { public: Vec::new(), signer: None }, Keys { public: Vec::new(), signer: None });
            signer.sign_with(private.as_bytes()).unwrap();
            verifier.verify_with(public.as_bytes()).unwrap();
            let token = signer.sign(&claims()).unwrap();
            assert_eq!(verifier.verify(&token), Some(claims()));
            assert_eq!(signer.jwks(), verifier.jwks());
            assert_eq!(verifier.sign(&claims()), None);
            let (_, stranger) = pair(algorithm);
            let mut other = Keys { public: Vec::new(), signer: None };
            other.verify_with(stranger.as_bytes()).unwrap();
            assert_eq!(other.verify(&token), None);
        }
    }

    #[test]
    fn forged_tokens() {
        let keys = signer();
        let token = keys.sign(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let hmac = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims(),
            &EncodingKey::from_secret(keys.jwks().to_string().as_bytes()),
        )
        .unwrap();
        let forged = [
            format!("{}.{}.", encode("{\"alg\":\"none\"}"), parts[1]),
            format!("{}.{}.{}", encode("{\"alg\":\"HS256\"}"), parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], encode("{\"sub\":\"root\"}"), parts[2]),
            format!("{}.{}", parts[0], parts[1]),
            hmac,
            "a".repeat(1 << 20),
            "..".into(),
            String::new(),
        ];
        for token in forged {
            assert_eq!(keys.verify(&token), None);
        }
    }

    #[test]
    fn claims_are_checked() {
        let check = |now: i64, wanted: &str, change: fn(&mut Claims), expect: Result<&[&str], &str>| {
            let mut claims = claims();
            change(&mut claims);
            let found = check_claims(&claims, &["https://issuer".into()], &[wanted.into()], now);
            let found = found.as_ref().map(|a| a.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(found.as_deref().map_err(|e| e.as_str()), expect);
        };
        check(1500, "api", |_| {}, Ok(&["api"]));
        check(1999, "api", |_| {}, Ok(&["api"]));
        check(2000, "api", |_| {}, Err("service account token has expired"));
        check(995, "api", |_| {}, Ok(&["api"]));
        check(900, "api", |_| {}, Err("service account token is not valid yet"));
        check(1500, "api", |c| c.iss = "other".into(), Err("invalid token issuer"));
        check(
            1500,
            "vault",
            |_| {},
            Err("token audiences [\"api\"] is invalid for the target audiences [\"vault\"]"),
        );
    }
}
