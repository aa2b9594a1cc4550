//! Every metric: name, type, labels, meaning. The exposition and the table of the documentation are made of
//! this.

/// A metric family, by the name without the `_total` that the encoder appends to that of a counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Those of each series.
    #[cfg(test)]
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! families {
    ($($name:ident = $kind:ident $text:literal [$($label:ident),*] $help:literal;)+) => {
        $(pub(super) const $name: Family = Family {
            name: $text,
            kind: Kind::$kind,
            #[cfg(test)]
            labels: &[$(stringify!($label)),*],
            help: $help,
        };)+

        #[cfg(test)]
        pub(super) const ALL: &[Family] = &[$($name),+];
    };
}

families! {
    ACCEPTED = Counter "offramp_connections_accepted" [listener] "Connections accepted";
    CLOSED = Counter "offramp_connections_closed" [listener] "Connections closed";
    OPEN = Gauge "offramp_connections_open" [listener] "Connections open";
    FAULTS = Counter "offramp_faults" [listener, fault] "Connections that ended with a fault";
    BYTES = Counter "offramp_bytes" [listener, leg]
        "Plaintext bytes received, by leg: near from who connected, far from the backend";
    HANDSHAKES = Counter "offramp_handshakes" [listener, leg, version, suite, group, kind]
        "Handshakes completed; kind is full or resumed";
    HANDSHAKES_EVICTED = Counter "offramp_handshakes_evicted" [listener]
        "Handshakes ended before timeouts.handshake because a newcomer found no slot";
    ALERTS = Counter "offramp_alerts" [listener, leg, direction, alert]
        "TLS alerts sent and received, close_notify included, by name";
    CONTROL_RECORDS = Counter "offramp_control_records" [listener, type]
        "Records received after the handshake that are not application data, by type";
    KEY_UPDATES_SENT = Counter "offramp_key_updates_sent" [listener] "KeyUpdate messages sent";
    OFFLOAD = Counter "offramp_offload" [listener, direction, path]
        "Directions of TLS legs, by record path; fallback is userspace after the kernel refused";
    OFFLOAD_REFUSALS = Counter "offramp_offload_refusals" [listener, direction, error]
        "Keys that the kernel refused, by error";
    LIMIT_REFUSALS = Counter "offramp_limit_refusals" [listener, limit]
        "Connections rejected or ended because of a limit";
    LIMIT_PAUSES = Counter "offramp_limit_pauses" [listener, limit]
        "Times that accepting (buffer_memory: receiving) paused because of a limit";
    ACCEPT_PAUSES = Counter "offramp_accept_pauses" []
        "Times that accepting paused because max_connections was reached";

    ACCEPT_TO_HELLO = Histogram "offramp_accept_to_hello_seconds" [listener]
        "Time from accept to the first bytes of the client, where its TLS is terminated or peeked at";
    HANDSHAKE_TIME = Histogram "offramp_handshake_seconds" [listener, leg, kind]
        "Time of a handshake: from the first bytes of the client, or from the connect to the backend";
    FIRST_BYTE = Histogram "offramp_first_byte_seconds" [listener]
        "Time from the moment at which both legs are ready to the first byte of the backend";
    CONNECTION_TIME = Histogram "offramp_connection_seconds" [listener] "Time from accept to close";
    CONNECT_TIME = Histogram "offramp_connect_seconds" [pool] "Time of a connect that succeeded";

    POOL_ATTEMPTS = Counter "offramp_pool_attempts" [pool] "Connects to endpoints";
    POOL_RETRIES = Counter "offramp_pool_retries" [pool]
        "Connects to another endpoint after one did not take the connection";
    POOL_FAILURES = Counter "offramp_pool_failures" [pool]
        "Endpoints that did not take a connection: connects and TLS handshakes that failed";
    PROBES = Counter "offramp_probes" [pool, result] "Health checks of endpoints; result is ok or failed";
    ENDPOINT_UP = Gauge "offramp_endpoint_up" [pool, endpoint]
        "1 if the endpoint gets connections, 0 if it is down";
    ENDPOINT_CHANGED = Gauge "offramp_endpoint_changed_seconds" [pool, endpoint]
        "When the endpoint went up or down last, or the start (Unix time)";
    ENDPOINT_CONNECTIONS = Gauge "offramp_endpoint_connections" [pool, endpoint]
        "Connections open to the endpoint, those being opened included";
    ENDPOINT_WEIGHT = Gauge "offramp_endpoint_weight" [pool, endpoint] "Weight of the endpoint";

    TICKET_KEY_AGE = Gauge "offramp_ticket_key_age_seconds" [key, state]
        "Time since the ticket key may seal, negative before; state is waits, seals, opens or expired";
    TICKET_KEY_NOT_AFTER = Gauge "offramp_ticket_key_not_after_seconds" [key]
        "When the ticket key stops opening tickets (Unix time)";
    CERTIFICATE_NOT_AFTER = Gauge "offramp_certificate_not_after_seconds" [certificate, nth]
        "When a certificate expires (Unix time)";

    HANDSHAKES_UNFINISHED = Gauge "offramp_handshakes_unfinished" []
        "Connections open whose handshake is not complete";
    WORKERS = Gauge "offramp_workers" [] "Worker threads";
    WORKERS_FULL = Gauge "offramp_workers_full" []
        "Workers without a free slot: connections wait in the backlog";
    WORKER_CONNECTIONS = Gauge "offramp_worker_connections" [worker] "Connections open, by worker";
    WORKER_STALLED = Gauge "offramp_worker_stalled_seconds" [worker]
        "Seconds since the worker's event loop last ran, as seen each second; 0 or 1 unless it is stuck";
    RELOADS = Counter "offramp_reloads" [result]
        "Reloads: SIGHUP, PUT /v1/config, certificate files that changed; result is ok or failed";
    OFFLOAD_ALLOWED = Gauge "offramp_offload_allowed" []
        "1 if the kernel may be given records, 0 if the kill switch forbids it";
    BUFFERS_LENT = Gauge "offramp_buffers_lent" [] "Buffers in use";
    BUFFER_BYTES = Gauge "offramp_buffer_bytes" []
        "Bytes of buffers that hold what was received or wait for it";
    OPERATIONS_IN_FLIGHT = Gauge "offramp_operations_in_flight" [] "Ring operations in flight";
    LOG_LINES_DROPPED = Counter "offramp_log_lines_dropped" [] "Lines of the log that were lost";
    LOG_WRITE_ERRORS = Counter "offramp_log_write_errors" [] "Writes to the log that failed";
    HOST_TLS = Gauge "offramp_host_tls" [name]
        "Kernel TLS in this network namespace, by the names of /proc/net/tls_stat";
    BUILD_INFO = Gauge "offramp_build_info" [version] "1, with the version of the program";
    RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" [] "Resident memory";
    CPU_TIME = Counter "process_cpu_seconds" [] "Processor time, of the program and of the kernel for it";
    OPEN_FDS = Gauge "process_open_fds" [] "Open descriptors";
    MAX_FDS = Gauge "process_max_fds" [] "Most descriptors that may be open";
    START_TIME = Gauge "process_start_time_seconds" [] "When the process started (Unix time)";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::path::Path;

    use offramp_testing::docs::assert_generated;

    use super::*;

    /// The table of the operator's documentation.
    fn table() -> String {
        let mut text = "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
        for Family { name, kind, labels, help } in ALL {
            let suffix = if *kind == Kind::Counter { "_total" } else { "" };
            let kind = format!("{kind:?}").to_lowercase();
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = labels.join(", ");
            let help = help.replace('|', "\\|");
            writeln!(text, "| `{name}{suffix}` | {kind} | {labels} | {help} |").expect("a string takes all");
        }
        text
    }

    #[test]
    fn metric_table_of_the_documentation_matches_the_code() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/metrics-and-faults.md");
        assert_generated(&page, "metrics", &table());
    }

    #[test]
    fn every_metric_has_its_own_name() {
        let names: BTreeSet<_> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
