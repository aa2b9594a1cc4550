import java.security.Security;
import java.security.cert.X509Certificate;
import java.util.Arrays;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

/** Arguments: port, protocols, and if need be suites; says what was negotiated and whether the echo was true. */
public class Client {
    private static final class TrustsAll extends X509ExtendedTrustManager {
        @Override public void checkClientTrusted(X509Certificate[] chain, String type) {}
        @Override public void checkServerTrusted(X509Certificate[] chain, String type) {}
        @Override public void checkClientTrusted(X509Certificate[] chain, String type, java.net.Socket socket) {}
        @Override public void checkServerTrusted(X509Certificate[] chain, String type, java.net.Socket socket) {}
        @Override public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        @Override public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        @Override public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    }

    public static void main(String[] arguments) throws Exception {
        // What the JDK forbids by itself is what the server is to be seen refusing.
        Security.setProperty("jdk.tls.disabledAlgorithms", "");
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new TrustsAll()}, null);
        // With more than one, the second resumes the session of the first.
        for (int left = Integer.getInteger("connections", 1); left > 0; left--) {
            connect(context, arguments);
        }
    }

    private static void connect(SSLContext context, String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", port)) {
            socket.setSoTimeout(60_000);
            socket.setEnabledProtocols(arguments[1].split(","));
            if (arguments.length > 2) {
                socket.setEnabledCipherSuites(arguments[2].split(","));
            }
            socket.startHandshake();
            byte[] line = "there and back\n".getBytes();
            socket.getOutputStream().write(line);
            boolean same = Arrays.equals(line, socket.getInputStream().readNBytes(line.length));
            String protocol = socket.getSession().getProtocol();
            System.out.println(protocol + " " + socket.getSession().getCipherSuite() + " echo " + same);
        } catch (SSLException refusal) {
            System.out.println("refused: " + refusal.getMessage());
        }
    }
}
