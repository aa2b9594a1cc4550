//! A client whose records are the kernel's, by the package `ktls` and its own stream.

use std::net::SocketAddr;
use std::sync::Arc;

use ::ktls::{CorkStream, config_ktls_client};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::identity::NAME;
use crate::tools::PATIENCE;

/// Sends the data to an echo, receives as much, ends.
pub fn echo_over_ktls(addr: SocketAddr, config: &Arc<ClientConfig>, data: &[u8]) -> Vec<u8> {
    let mut config = ClientConfig::clone(config);
    config.enable_secret_extraction = true;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = async { tokio::time::timeout(PATIENCE, echo(addr, config.into(), data)).await };
    runtime.block_on(client).expect("the client is done in time")
}

async fn echo(addr: SocketAddr, config: Arc<ClientConfig>, data: &[u8]) -> Vec<u8> {
    let tcp = TcpStream::connect(addr).await.expect("the server accepts");
    let name = NAME.try_into().expect("a server name");
    let stream = TlsConnector::from(config).connect(name, CorkStream::new(tcp)).await;
    let stream = config_ktls_client(stream.expect("a handshake")).await;
    let (mut receive, mut send) = split(stream.expect("the kernel takes the keys"));
    let mut back = vec![0; data.len()];
    let sent = async {
        send.write_all(data).await.expect("the server reads");
        send.flush().await.expect("the server reads");
    };
    let received = async { receive.read_exact(&mut back).await.expect("the echo comes back") };
    tokio::join!(sent, received);
    // The package says close_notify when it shuts down.
    send.shutdown().await.expect("the end can be sent");
    back
}
