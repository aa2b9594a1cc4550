//! The options of a configuration, and a value as it was given.

use std::fmt;
use std::path::PathBuf;

use super::ConfigError;

/// What is known of an option: all of it is in the table below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// In the file; below `[timeouts]` with that in front, `timeouts.idle`.
    pub name: &'static str,
    /// On the command line, with its dashes.
    pub flag: &'static str,
    /// What a value looks like.
    pub values: &'static str,
    /// What holds where it is not given; empty if nothing does.
    pub default: &'static str,
    /// Where in the file it may be given.
    pub scope: Scope,
    /// How the file writes it.
    pub kind: Kind,
    /// For `--help`.
    pub help: &'static str,
}

/// Where in the file an option may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// At the top and in each `[[listener]]`, which inherits it.
    Listener,
    /// The same, but no listener inherits it.
    Own,
    /// At the top, in each `[[listener]]` and in each `[[pool]]`, which inherit it.
    Pool,
    /// At the top alone.
    Process,
}

/// How the file writes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A string: a path, relative to the directory of the file.
    Path,
    /// An integer.
    Number,
    /// An array of strings.
    List,
    /// A string, or an array of strings.
    Texts,
}

impl Kind {
    /// What is to be written, in words.
    pub(super) fn written(self) -> &'static str {
        match self {
            Self::Text | Self::Path => "a string, in quotes",
            Self::Number => "a whole number, without quotes",
            Self::Texts => "a string, in quotes, or an array of strings",
            Self::List => "an array of strings, such as [\"a\", \"b\"]",
        }
    }
}

/// The options: the reader of the file, the flags with their help and the documentation are made of
/// this.
macro_rules! options {
    ($($key:ident: $name:literal, $flag:literal, $values:literal, default $default:literal,
       $scope:ident $kind:ident, $help:literal;)*) => {
        /// Everything that has one value; identities, of which there are several, stand apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ConfigOption {
            $(#[doc = $help] $key,)*
        }

        impl ConfigOption {
            /// Every key.
            pub const ALL: &[Self] = &[$(Self::$key,)*];

            /// What is known of it.
            #[must_use]
            pub fn description(self) -> &'static Description {
                match self {
                    $(Self::$key => &Description {
                        name: $name,
                        flag: $flag,
                        values: $values,
                        default: $default,
                        scope: Scope::$scope,
                        kind: Kind::$kind,
                        help: $help,
                    },)*
                }
            }
        }
    };
}

options! {
    Listen: "listen", "--listen", "ADDR:PORT|unix:PATH|unix:@NAME",
        default "", Own Texts,
        "Address, or several, on which connections are accepted; with port 0 the kernel chooses the port";
    SocketMode: "socket_mode", "--socket-mode", "MODE",
        default "0660", Own Text,
        "The mode of a listener's Unix socket, in octal: who may write to the file may connect";
    SocketOwner: "socket_owner", "--socket-owner", "USER|USER:GROUP|:GROUP",
        default "those of the process", Own Text,
        "The user and group of a listener's Unix socket, by name or number";
    Backend: "backend", "--backend", "ADDR:PORT|HOST:PORT|unix:PATH|unix:@NAME|pool:NAME",
        default "", Own Texts,
        "Where accepted connections go: one address or several, each with any of weight=N, backup and \
         max_connections=N behind it; or a [[pool]] of the file";
    Balance: "balance", "--balance", "round-robin|least-connections|random-of-two|hash-client|hash-sni",
        default "round-robin", Pool Text,
        "How one of several backends is chosen";
    SendProxy: "send_proxy", "--send-proxy", "off|v1|v2",
        default "off", Pool Text,
        "Which PROXY header the backend gets before anything else";
    ProxyTlvs: "proxy_tlvs", "--proxy-tlvs", "alpn|authority|ssl|unique-id|crc32c|certificate",
        default "none", Pool List,
        "What a PROXY header of version 2 says beside the addresses";
    HealthCheck: "health_check", "--health-check", "off|tcp|tls",
        default "off", Pool Text,
        "Whether backends are probed, in addition to counting connections that fail: by a TCP connection, or \
         by a TLS handshake";
    HealthSend: "health_send", "--health-send", "TEXT",
        default "nothing", Pool Text,
        "What a probe sends once it is connected, or its TLS handshake is complete; \\r, \\n, \\t, \\\\ and \
         \\xNN are bytes";
    HealthExpect: "health_expect", "--health-expect", "TEXT",
        default "any answer or none", Pool Text,
        "What the answer to a probe must contain, written as health_send";
    SlowStart: "slow_start", "--slow-start", "TIME",
        default "0s", Pool Text,
        "How long a backend that came up again gets fewer connections";
    ResolveInterval: "resolve_interval", "--resolve-interval", "TIME",
        default "10s", Pool Text,
        "How often the host names of backends are resolved again";
    Mode: "mode", "--mode", "terminate|originate|reencrypt|passthrough|plain",
        default "terminate", Listener Text,
        "Which legs have TLS: the accepted one (terminate), the one to the backend (originate), both \
         (reencrypt), none of ours (passthrough, which reads the first hello for the route) or none (plain)";
    ServerName: "server_name", "--server-name", "NAME",
        default "", Listener Text,
        "With originate and reencrypt: the name that the server's certificate must have";
    ForwardServerName: "forward_server_name", "--forward-server-name", "on|off",
        default "off", Listener Text,
        "With reencrypt: the name that the client asks for takes the place of server_name";
    ServerCa: "server_ca", "--server-ca", "PEM",
        default "", Listener Path,
        "With originate and reencrypt: the authorities that issue the server's certificate, unless \
         fingerprints name it";
    Workers: "workers", "--workers", "N",
        default "one per core", Process Number,
        "Worker threads";
    PinWorkers: "pin_workers", "--pin-workers", "off|on|incoming-cpu",
        default "off", Process Text,
        "Pin each worker to a CPU of its own (on), and give it the connections that arrive there \
         (incoming-cpu)";
    User: "user", "--user", "NAME|NUMBER",
        default "the one who starts it", Process Text,
        "The user that Offramp becomes once it listens and has read its keys; only if it is started as root";
    Group: "group", "--group", "NAME|NUMBER",
        default "the user's", Process Text,
        "Beside user: another group than that user's own";
    Confine: "confine", "--confine", "auto|require|off",
        default "auto", Process Text,
        "Whether the process gives up what it does not need (Landlock, seccomp, restricted rings): as far as \
         the kernel can (auto), entirely or it does not start (require), or not at all (off)";
    Offload: "offload", "--offload", "auto|always|never|after-bytes(N)",
        default "auto", Listener Text,
        "When kernel TLS encrypts and decrypts the records";
    OffloadDirections: "offload_directions", "--offload-directions", "both|tx|rx",
        default "both", Listener Text,
        "Directions that kernel TLS may handle: tx is sent to the TLS peer, rx is received from it";
    KeyUpdate: "keyupdate", "--keyupdate", "offload|userspace",
        default "offload", Listener Text,
        "TLS 1.3 on a kernel that cannot follow a KeyUpdate: offload it, or keep it in userspace";
    ExpectNoPad: "expect_no_pad", "--expect-no-pad", "on|off",
        default "off", Listener Text,
        "Whether the kernel decrypts TLS 1.3 records directly into the receive buffer; a padded record is \
         decrypted twice";
    RecordLimit: "record_limit", "--record-limit", "N",
        default "what the cipher allows", Listener Number,
        "Records that one key may protect; then TLS 1.3 updates the key, and other connections end";
    Tickets: "tickets", "--tickets", "on|off",
        default "on", Listener Text,
        "Session tickets";
    PostQuantum: "post_quantum", "--post-quantum", "off|allow|prefer",
        default "off", Listener Text,
        "Whether the post-quantum group X25519MLKEM768 is negotiated, which the 3GPP profile does not list";
    Keepalive: "keepalive", "--keepalive", "on|off",
        default "on", Listener Text,
        "Whether TCP keepalive probes silent peers of either leg";
    TcpUserTimeout: "tcp_user_timeout", "--tcp-user-timeout", "TIME",
        default "4m", Listener Text,
        "How long TCP waits for a peer of either leg to acknowledge or to take what was sent";
    TicketKeys: "ticket_keys", "--ticket-keys", "FILE",
        default "keys of this process alone", Process Path,
        "The ticket keys that several hosts share";
    SessionLifetime: "session_lifetime", "--session-lifetime", "TIME",
        default "24h", Process Text,
        "From the first full handshake until the session can no longer be resumed";
    ClientAuth: "client_auth", "--client-auth", "none|request|require",
        default "none", Listener Text,
        "Whether clients are asked for a certificate";
    ClientCa: "client_ca", "--client-ca", "PEM",
        default "", Listener Path,
        "The authorities that issue clients' certificates";
    ClientCrl: "client_crl", "--client-crl", "PEM",
        default "", Listener Path,
        "Beside client_ca: the lists of the certificates that the authorities have revoked";
    ClientNames: "client_names", "--client-names", "DNSNAME|URI",
        default "any name", Listener List,
        "Beside client_ca: the names of which a client's certificate must have one";
    Fingerprints: "fingerprints", "--fingerprints", "HASH AA:BB:…",
        default "", Listener List,
        "The certificates that the peer may have, by their fingerprints as in SDP: servers' with originate \
         and reencrypt, otherwise clients'";
    Alpn: "alpn", "--alpn", "NAME",
        default "none is negotiated", Listener List,
        "Application protocols (ALPN), in order of preference";
    UnknownName: "unknown_name", "--unknown-name", "first|refuse",
        default "first", Listener Text,
        "What becomes of a client that asks for a name that no certificate has";
    Truncation: "truncation", "--truncation", "reset|fin",
        default "reset", Listener Text,
        "How the other leg ends after a FIN without close_notify: reset, or as after an orderly end";
    AcceptProxy: "accept_proxy", "--accept-proxy", "NETWORK|unix:",
        default "none is expected", Listener List,
        "The networks of the balancers that connect, each with a PROXY header that says who the client is; \
         others are refused. unix: accepts every client of the listener's Unix socket";
    ConnectionLog: "connection_log", "--connection-log", "N",
        default "0", Process Number,
        "Connections per second that get a line in the log when they end";
    Admin: "admin", "--admin", "ADDR:PORT",
        default "nowhere", Process Text,
        "Address on which the status page, /metrics, /healthz and /v1/state are served; read-only";
    AdminSocket: "admin_socket", "--admin-socket", "PATH",
        default "none", Process Path,
        "Unix socket (mode 0600) on which the same is served, and what changes something or is private: \
         /v1/config, /v1/upgrade, /v1/connections, /offload/off";
    MaxConnections: "max_connections", "--max-connections", "N",
        default "10000", Process Number,
        "Connections open at once";
    Handshake: "timeouts.handshake", "--handshake-timeout", "TIME",
        default "10s", Process Text,
        "From accept until the handshake is complete";
    Connect: "timeouts.connect", "--connect-timeout", "TIME",
        default "5s", Process Text,
        "From the start of the connect until the leg to the backend is open";
    Idle: "timeouts.idle", "--idle-timeout", "TIME",
        default "1h", Process Text,
        "Time without a byte in either direction until the connection is ended";
    Linger: "timeouts.linger", "--linger-timeout", "TIME",
        default "2s", Process Text,
        "From Offramp's last byte until the peer has closed too";
    Drain: "timeouts.drain", "--drain-timeout", "TIME",
        default "30s", Process Text,
        "From SIGTERM until what is still open is ended";
    Lifetime: "timeouts.lifetime", "--lifetime", "TIME",
        default "without end", Process Text,
        "From accept until the connection is ended, whatever it does";
    ListenerConnections: "limits.listener_connections", "--listener-connections", "N",
        default "no limit", Process Number,
        "Connections open at once per listener; then the listener pauses";
    SourceConnections: "limits.source_connections", "--source-connections", "N",
        default "no limit", Process Number,
        "Connections open at once per source; more are refused";
    SourceRate: "limits.source_rate", "--source-rate", "N",
        default "no limit", Process Number,
        "New connections per second and source; more are refused";
    SourcePrefixV4: "limits.source_prefix_ipv4", "--source-prefix-ipv4", "BITS",
        default "32", Process Number,
        "How much of an IPv4 address is one source";
    SourcePrefixV6: "limits.source_prefix_ipv6", "--source-prefix-ipv6", "BITS",
        default "64", Process Number,
        "How much of an IPv6 address is one source";
    ConnectionRate: "limits.connection_rate", "--connection-rate", "N",
        default "no limit", Process Number,
        "New connections per second; then accepting pauses";
    BufferMemory: "limits.buffer_memory", "--buffer-memory", "SIZE",
        default "no limit", Process Text,
        "Memory for bytes received and not yet sent; at the limit receiving pauses, and connections whose \
         bytes have waited longest end";
    FullHandshakeRate: "limits.full_handshake_rate", "--full-handshake-rate", "N",
        default "no limit", Process Number,
        "Full handshakes of clients per second; more are refused, while resumed ones pass";
}

impl ConfigOption {
    /// What is to be written in the file, in words.
    pub(super) fn wanted(self) -> String {
        let Description { values, kind, .. } = self.description();
        let is_choice = values.contains('|') && values.starts_with(|first: char| first.is_ascii_lowercase());
        if *kind != Kind::Text || !is_choice {
            return kind.written().to_owned();
        }
        values.split('|').map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(" or ")
    }

    /// In the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.description().name
    }

    /// The flag of the command line that gives it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        self.description().flag
    }
}

impl fmt::Display for ConfigOption {
    /// As the file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File {
        /// Which one.
        path: PathBuf,
        /// 1-based.
        line: usize,
    },
    /// On the command line, with this flag.
    Flag(&'static str),
    /// Nowhere: it is what the default comes to here.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as written, and where.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// As written.
    pub value: String,
    /// Where.
    pub origin: Origin,
}

impl fmt::Debug for Given {
    /// Where, and not what: a password may be in it (`health_send`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Given({})", self.origin)
    }
}

impl Given {
    /// The error that names it, for whoever knows what is allowed.
    #[must_use]
    pub fn refused(self, key: ConfigOption, allowed: impl fmt::Display) -> ConfigError {
        // A password may be in it.
        let value = if key == ConfigOption::HealthSend { "…".to_owned() } else { self.value };
        ConfigError::Refused { origin: self.origin, key, value, allowed: allowed.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use offramp_testing::docs::assert_generated;

    use super::*;

    /// The table of the operator's documentation.
    fn table() -> String {
        let mut text = "| key | flag | values | default | where | meaning |\n".to_owned();
        text.push_str("| --- | --- | --- | --- | --- | --- |\n");
        for key in ConfigOption::ALL {
            let Description { name, flag, values, default, scope, kind, help } = key.description();
            let values = values.replace('|', " \\| ");
            let values = match kind {
                Kind::List => format!("array of {values}"),
                Kind::Texts => format!("{values}, or an array of these"),
                _ => values,
            };
            let place = match scope {
                Scope::Own => "each listener, not inherited",
                Scope::Listener => "listener",
                Scope::Pool => "listener, pool",
                Scope::Process => "process",
            };
            writeln!(text, "| `{name}` | `{flag}` | {values} | {default} | {place} | {help} |").unwrap();
        }
        text
    }

    #[test]
    fn key_table_of_the_documentation_is_that_of_the_code() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/configure.md");
        assert_generated(&page, "keys", &table());
    }
}
