import java.io.FileInputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.util.HexFormat;
import java.util.Random;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.SSLSocketFactory;
import javax.net.ssl.TrustManagerFactory;

/**
 * A client of an echo: for each protocol/suite a connection that sends noise in blocks and receives each block back
 * before the next, and a line with what was negotiated and the SHA-256 of what was sent and of what was received.
 *
 * One thread, because where one sends while another receives, a KeyUpdate of Java 17 breaks its own output record
 * (IndexOutOfBoundsException in SSLSocketOutputRecord.encodeHandshake). Blocks, because Java asks for new keys once
 * more with each record that comes until it gets them: one request for each that was on its way.
 *
 * Arguments: port, file of trusted certificates, bytes, protocol/suite ...
 */
public final class TlsClient {
    private static final int BLOCK_BYTES = 1 << 16;

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        SSLSocketFactory factory = trusting(arguments[1]);
        long bytes = Long.parseLong(arguments[2]);
        for (int i = 3; i < arguments.length; i++) {
            String[] offer = arguments[i].split("/");
            try (SSLSocket socket = (SSLSocket) factory.createSocket("127.0.0.1", port)) {
                socket.setEnabledProtocols(new String[] {offer[0]});
                socket.setEnabledCipherSuites(new String[] {offer[1]});
                socket.setTcpNoDelay(true);
                socket.startHandshake();
                String digests = exchange(socket, bytes);
                String protocol = socket.getSession().getProtocol();
                System.out.println(protocol + "/" + socket.getSession().getCipherSuite() + " " + digests);
            }
        }
    }

    /** Ends with close_notify each way. */
    private static String exchange(SSLSocket socket, long bytes) throws Exception {
        MessageDigest sent = MessageDigest.getInstance("SHA-256");
        MessageDigest received = MessageDigest.getInstance("SHA-256");
        OutputStream out = socket.getOutputStream();
        InputStream in = socket.getInputStream();
        Random noise = new Random(bytes);
        byte[] block = new byte[BLOCK_BYTES];
        for (long left = bytes; left > 0; ) {
            noise.nextBytes(block);
            int length = (int) Math.min(left, block.length);
            out.write(block, 0, length);
            sent.update(block, 0, length);
            received.update(in.readNBytes(length));
            left -= length;
        }
        socket.shutdownOutput();
        received.update(in.readAllBytes());
        return HexFormat.of().formatHex(sent.digest()) + " " + HexFormat.of().formatHex(received.digest());
    }

    private static SSLSocketFactory trusting(String path) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = new FileInputStream(path)) {
            for (Certificate certificate : CertificateFactory.getInstance("X.509").generateCertificates(file)) {
                store.setCertificateEntry("trusted " + store.size(), certificate);
            }
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context.getSocketFactory();
    }
}
