//! etcd's API version 3, by the JSON gateway that each member of etcd has beside gRPC.
//!
//! What comes from there is judged, never trusted: an answer has a bound of bytes and of time, and every field is
//! looked for.

use std::io::Read;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use ureq::{Agent, Body, http};
use zeroize::Zeroizing;

/// Most bytes of an answer. The sealed ring has 64 KiB at most, and base64 makes 88 of them.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;
/// Most characters of what etcd says that get into the log.
const SAID_MAX: usize = 200;
/// A stream of changes is asked for again after so long: one that is broken without a word ends then.
const WATCH: Duration = Duration::from_secs(60);

/// Why etcd gave no answer that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EtcdError {
    #[error("{endpoint}: {cause}")]
    NoAnswer { endpoint: String, cause: String },
    #[error("{endpoint}: {status}: {said}")]
    Refused { endpoint: String, status: u16, said: String },
    #[error("{endpoint}: the answer is not one of etcd's API version 3: {what}")]
    Rubbish { endpoint: String, what: &'static str },
}

/// By which user.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: Zeroizing<String>,
}

/// A key of etcd with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) modified: i64,
    pub(crate) lease: i64,
}

/// A condition of a transaction.
pub(crate) enum If<'a> {
    /// There is no such key.
    Absent(&'a str),
    /// The key was created by this revision, and is there since.
    Created(&'a str, i64),
    /// The key was changed last by this revision.
    Modified(&'a str, i64),
}

/// A client that asks one endpoint after the other until one answers.
#[derive(Clone)]
pub(crate) struct Etcd {
    agent: Agent,
    endpoints: Vec<String>,
    /// The one that answered last.
    current: usize,
    user: Option<User>,
    token: Option<String>,
}

impl Etcd {
    pub(crate) fn new(agent: Agent, endpoints: Vec<String>, user: Option<User>) -> Self {
        Self { agent, endpoints, current: 0, user, token: None }
    }

    /// The values of both keys, as of one moment.
    pub(crate) fn get(&mut self, keys: [&str; 2]) -> Result<[Option<Entry>; 2], EtcdError> {
        let reads = keys.map(|key| json!({ "request_range": { "key": base64(key.as_bytes()) } }));
        let answer = self.call("/v3/kv/txn", &json!({ "success": reads }))?;
        let mut entries = [None, None];
        for (nth, entry) in entries.iter_mut().enumerate() {
            let range = answer.pointer(&format!("/responses/{nth}/response_range"));
            let range = range.ok_or_else(|| self.rubbish("a read has no answer"))?;
            *entry = range.pointer("/kvs/0").map(|entry| self.entry(entry)).transpose()?;
        }
        Ok(entries)
    }

    /// Writes a key if all conditions hold; whether they did.
    pub(crate) fn put_if(
        &mut self,
        conditions: &[If<'_>],
        key: &str,
        value: &[u8],
        lease: i64,
    ) -> Result<bool, EtcdError> {
        let compare: Vec<Value> = conditions.iter().map(If::json).collect();
        let put =
            json!({ "key": base64(key.as_bytes()), "value": base64(value), "lease": lease.to_string() });
        let body = json!({ "compare": compare, "success": [{ "request_put": put }] });
        let answer = self.call("/v3/kv/txn", &body)?;
        match answer.get("succeeded") {
            None | Some(Value::Bool(false)) => Ok(false),
            Some(Value::Bool(true)) => Ok(true),
            Some(_) => Err(self.rubbish("`succeeded` is neither true nor false")),
        }
    }

    pub(crate) fn grant(&mut self, seconds: u64) -> Result<i64, EtcdError> {
        let answer = self.call("/v3/lease/grant", &json!({ "TTL": seconds.to_string() }))?;
        match integer(answer.get("ID")) {
            Some(lease) if lease != 0 => Ok(lease),
            _ => Err(self.rubbish("a lease has no ID")),
        }
    }

    /// Whether the lease is still there.
    pub(crate) fn keep_alive(&mut self, lease: i64) -> Result<bool, EtcdError> {
        let answer = self.call("/v3/lease/keepalive", &json!({ "ID": lease.to_string() }))?;
        let result = answer.get("result").ok_or_else(|| self.rubbish("a lease has no answer"))?;
        // etcd leaves out a zero, which says that there is no such lease.
        Ok(integer(result.get("TTL")).unwrap_or(0) > 0)
    }

    pub(crate) fn revoke(&mut self, lease: i64) -> Result<(), EtcdError> {
        self.call("/v3/lease/revoke", &json!({ "ID": lease.to_string() })).map(drop)
    }

    /// Calls `on_change` when something below `prefix/` may have changed, until the stream ends, which it does after
    /// a minute at the latest.
    pub(crate) fn watch(&mut self, prefix: &str, on_change: impl Fn()) -> Result<(), EtcdError> {
        // What begins with `prefix/` ends in front of `prefix0`, as 0 follows on /.
        let [first, last] = ["/", "0"].map(|end| base64(format!("{prefix}{end}").as_bytes()));
        let body = json!({ "create_request": { "key": first, "range_end": last } });
        self.authenticate()?;
        let endpoint = self.endpoint();
        let mut response = self.send(&endpoint, "/v3/watch", &body, Some(WATCH))?;
        if !response.status().is_success() {
            self.token = None;
            return Err(refused(endpoint, &mut response));
        }
        let mut stream = response.into_body().into_with_config().limit(u64::MAX).reader();
        // Content does not matter: whoever is called reads the keys again.
        let mut block = [0; 4096];
        while let Ok(1..) = stream.read(&mut block) {
            on_change();
        }
        Ok(())
    }

    /// After an endpoint failed a watch, another one is asked.
    pub(crate) fn turn(&mut self) {
        self.current = (self.current + 1) % self.endpoints.len();
        self.token = None;
    }

    fn endpoint(&self) -> String {
        self.endpoints[self.current].clone()
    }

    /// One question to one endpoint after the other, and to the first once more: its connection, or its token, may be
    /// one that has ended. Asking twice does no harm: every write has conditions.
    fn call(&mut self, path: &str, body: &Value) -> Result<Value, EtcdError> {
        let mut failed = None;
        for _ in 0..=self.endpoints.len() {
            match self.authenticate().and_then(|()| self.ask(path, body)) {
                Ok(answer) => return Ok(answer),
                Err(error) => failed = Some(error),
            }
            self.turn();
        }
        Err(failed.unwrap_or_else(|| self.rubbish("no endpoint")))
    }

    fn authenticate(&mut self) -> Result<(), EtcdError> {
        let Some(user) = self.user.clone().filter(|_| self.token.is_none()) else { return Ok(()) };
        let body = json!({ "name": user.name, "password": user.password.as_str() });
        let answer = self.ask("/v3/auth/authenticate", &body)?;
        let token = answer.get("token").and_then(Value::as_str).map(str::to_owned);
        self.token = Some(token.ok_or_else(|| self.rubbish("a user got no token"))?);
        Ok(())
    }

    fn ask(&mut self, path: &str, body: &Value) -> Result<Value, EtcdError> {
        let endpoint = self.endpoint();
        let mut response = self.send(&endpoint, path, body, None)?;
        if !response.status().is_success() {
            // A token ends with its time, and with the member that gave it.
            self.token = None;
            return Err(refused(endpoint, &mut response));
        }
        let bytes = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let bytes = bytes.map_err(|error| no_answer(&endpoint, &error))?;
        // Of a stream the first message is the answer.
        let mut values = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
        match values.next() {
            Some(Ok(value @ Value::Object(_))) => Ok(value),
            _ => Err(self.rubbish("not JSON")),
        }
    }

    fn send(
        &self,
        endpoint: &str,
        path: &str,
        body: &Value,
        stream: Option<Duration>,
    ) -> Result<http::Response<Body>, EtcdError> {
        let mut request = self.agent.post(format!("{endpoint}{path}"));
        if let Some(token) = &self.token {
            request = request.header("Authorization", token);
        }
        if stream.is_some() {
            request = request.config().timeout_global(None).timeout_recv_body(stream).build();
        }
        // A password is in it.
        let text = Zeroizing::new(body.to_string());
        let request = request.header("Content-Type", "application/json");
        request.send(text.as_bytes()).map_err(|error| no_answer(endpoint, &error))
    }

    fn entry(&self, entry: &Value) -> Result<Entry, EtcdError> {
        let number = |name| integer(entry.get(name));
        let value = entry.get("value").and_then(Value::as_str).unwrap_or_default();
        let value = Base64::decode_vec(value).map_err(|_| self.rubbish("a value is not base64"))?;
        let (created, modified) = (number("create_revision"), number("mod_revision"));
        let (Some(created), Some(modified)) = (created, modified) else {
            return Err(self.rubbish("a key has no revision"));
        };
        Ok(Entry { value, created, modified, lease: number("lease").unwrap_or(0) })
    }

    fn rubbish(&self, what: &'static str) -> EtcdError {
        EtcdError::Rubbish { endpoint: self.endpoint(), what }
    }
}

impl If<'_> {
    fn json(&self) -> Value {
        let (key, target, field, revision) = match self {
            Self::Absent(key) => (key, "CREATE", "create_revision", 0),
            Self::Created(key, revision) => (key, "CREATE", "create_revision", *revision),
            Self::Modified(key, revision) => (key, "MOD", "mod_revision", *revision),
        };
        json!({ "target": target, "result": "EQUAL", "key": base64(key.as_bytes()), field: revision.to_string() })
    }
}

fn base64(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// The gateway writes 64 bits as a string.
fn integer(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_i64(),
        _ => None,
    }
}

fn no_answer(endpoint: &str, error: &ureq::Error) -> EtcdError {
    EtcdError::NoAnswer { endpoint: endpoint.to_owned(), cause: printable(&error.to_string()) }
}

fn refused(endpoint: String, response: &mut http::Response<Body>) -> EtcdError {
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().unwrap_or_default();
    let json = serde_json::from_slice::<Value>(&body).ok();
    let said = json.as_ref().and_then(|value| value.get("error").or_else(|| value.get("message")));
    let said = match said.and_then(Value::as_str) {
        Some(said) => printable(said),
        None => printable(String::from_utf8_lossy(&body).trim()),
    };
    EtcdError::Refused { endpoint, status, said }
}

/// Bounded, and on one line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(SAID_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
