//! Session tokens that are almost right.

use std::net::TcpListener;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::live::{KEY, Live};

/// A token of these parts.
fn token(header: &Value, claims: &Value, key: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let signature = crypto::sign(text.as_bytes(), &EncodingKey::from_secret(key.as_bytes()), Algorithm::HS256);
    format!("{text}.{}", signature.expect("signs"))
}

/// What the node put into the owner's token.
fn claims(live: &Live) -> Value {
    let part = live.token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

fn header() -> Value {
    json!({"typ": "JWT", "alg": "HS256"})
}

/// `value` with one more member, or another one.
fn with(mut value: Value, name: &str, member: Value) -> Value {
    value[name] = member;
    value
}

#[track_caller]
fn refused(live: &Live, token: &str) {
    live.ask_as(token, "GET", "/v1/apps", b"").refused(401, "unauthorized", token);
}

/// That the tokens made here are taken when nothing is wrong with them; all else would prove nothing.
fn good(live: &Live) {
    let good = token(&header(), &claims(live), KEY);
    let answer = live.ask_as(&good, "GET", "/v1/apps", b"");
    assert_eq!(answer.status, 200, "{}", answer.text);
}

pub(super) fn no_algorithm(live: &Live) {
    good(live);
    for name in ["none", "nOnE", "None", ""] {
        let signed = token(&with(header(), "alg", name.into()), &claims(live), KEY);
        refused(live, &signed);
        let cut = signed.rfind('.').expect("a signature");
        refused(live, &signed[..=cut]);
    }
}

pub(super) fn other_keys(live: &Live) {
    for key in ["", "secret", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"] {
        refused(live, &token(&header(), &claims(live), key));
    }
    for algorithm in ["HS384", "HS512", "RS256", "EdDSA"] {
        refused(live, &token(&with(header(), "alg", algorithm.into()), &claims(live), KEY));
    }
}

pub(super) fn key_names(live: &Live) {
    for kid in ["../../dev/null", "' OR 1=1 --", "unknown"] {
        refused(live, &token(&with(header(), "kid", kid.into()), &claims(live), KEY));
    }
}

pub(super) fn keys_from_elsewhere(live: &Live) {
    let forge = TcpListener::bind("127.0.0.1:0").expect("a free port");
    forge.set_nonblocking(true).expect("no waiting");
    let url = format!("http://{}/keys", forge.local_addr().expect("an address"));
    for (name, value) in [
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("jwk", json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("secret")})),
    ] {
        refused(live, &token(&with(header(), name, value.clone()), &claims(live), KEY));
        refused(live, &token(&with(header(), name, value), &claims(live), "secret"));
    }
    assert!(forge.accept().is_err(), "the node asked for a key");
}

pub(super) fn claims_that_do_not_fit(live: &Live) {
    let other = "01a205ad-7f91-737f-a519-2b4c26e7d222";
    let mut endless = claims(live);
    endless.as_object_mut().expect("an object").remove("exp");
    refused(live, &token(&header(), &endless, KEY));
    for (name, value) in [
        ("iss", json!(other)),
        ("aud", json!("another service")),
        ("nbf", json!(4_102_444_800_u64)),
        ("exp", json!(1)),
        ("exp", json!("tomorrow")),
        ("exp", json!(-1)),
        ("sid", json!(other)),
        ("sub", json!(other)),
        ("is_admin", json!(true)),
    ] {
        refused(live, &token(&header(), &with(claims(live), name, value), KEY));
    }
    refused(live, &token(&with(header(), "typ", "at+jwt".into()), &claims(live), KEY));
    let user = json!({"email": "ada@example.org", "password": "correct horse"}).to_string();
    let second = live.ask_as("", "POST", "/auth/login", user.as_bytes());
    let second = second.json["token"].as_str().expect("a token").to_owned();
    assert_eq!(live.ask_as(&second, "POST", "/auth/logout", b"{}").status, 204);
    refused(live, &second);
    good(live);
}
