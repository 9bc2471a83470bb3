// Package endpoint connects to a Redis server described by a config.Endpoint.
// It owns the dialling, the TLS handshake and the words for what goes wrong there; where sentinels watch the server, its finder says where it is.
// It never speaks Redis: no AUTH, no PING; what it returns is a bare connection.
package endpoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/crossfade/crossfade/config"
)

// A server that vanished without a word is noticed after 15 s + 3 × 5 s of silence.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// Dial connects, and with TLS also finishes the handshake, within timeout (0: only
// ctx bounds it). TCP connections have keep-alive and no delay. The caller owns the
// connection. An error names the address and says what would help; the cause can be
// found with errors.Is and errors.As. When ctx ends first, the error is its cause.
//
// Where sentinels watch the server, the connection leads to one that said it was the
// master after the connection was made, and it is closed when that is not so any more.
func Dial(ctx context.Context, e config.Endpoint, timeout time.Duration) (net.Conn, error) {
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		bounded, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()

	switch {
	case e.Watched != nil:
		return dialMaster(ctx, bounded, e)
	case e.Cluster != nil:
		return nil, fmt.Errorf("connecting to %s: only the nodes of a cluster can be connected to", e)
	}
	start := time.Now()
	conn, err := connect(ctx, bounded, e, start)
	if err != nil {
		return nil, err
	}
	return handshake(ctx, bounded, e, start, conn)
}

// connect makes the connection itself.
func connect(ctx, bounded context.Context, e config.Endpoint, start time.Time) (net.Conn, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	conn, err := dialer.DialContext(bounded, e.Network, e.Address)
	if err != nil {
		return nil, explain(ctx, e, "connecting to", start, err)
	}
	if tcp, is := conn.(*net.TCPConn); is {
		// Go's default, asked for: a delayed small write would be a stall of 40 ms.
		if err := tcp.SetNoDelay(true); err != nil {
			_ = conn.Close()
			return nil, explain(ctx, e, "connecting to", start, err)
		}
	}
	return conn, nil
}

// handshake makes that of TLS, where there is to be one. It owns conn.
func handshake(ctx, bounded context.Context, e config.Endpoint, start time.Time, conn net.Conn) (net.Conn, error) {
	settings := e.ClientTLS()
	if settings == nil {
		return conn, nil
	}
	secure := tls.Client(conn, withServerName(settings, e.Address))
	if err := secure.HandshakeContext(bounded); err != nil {
		_ = conn.Close()
		return nil, explain(ctx, e, "TLS handshake with", start, err)
	}
	return secure, nil
}

// withServerName fills in what a hand-made endpoint may lack.
func withServerName(settings *tls.Config, address string) *tls.Config {
	if settings.ServerName != "" {
		return settings
	}
	settings = settings.Clone()
	settings.ServerName = address
	if host, _, err := net.SplitHostPort(address); err == nil {
		settings.ServerName = host
	}
	return settings
}

// explain gives the error its address and what would help.
func explain(ctx context.Context, e config.Endpoint, doing string, start time.Time, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", doing, e, context.Cause(ctx))
	}
	handshake := doing != "connecting to"
	if timedOut(err) {
		after := time.Since(start).Round(time.Millisecond)
		if handshake {
			return fmt.Errorf("%s %s: no TLS answer within %v: %w (perhaps the port speaks plain Redis: use redis:// or the server's TLS port)", doing, e, after, err)
		}
		return fmt.Errorf("%s %s: no answer within %v: %w (check the address and the firewall, or raise proxy.dial_timeout)", doing, e, after, err)
	}
	if hint := hintFor(err, handshake); hint != "" {
		return fmt.Errorf("%s %s: %w (%s)", doing, e, err, hint)
	}
	return fmt.Errorf("%s %s: %w", doing, e, err)
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		(errors.As(err, &timeout) && timeout.Timeout())
}

func hintFor(err error, handshake bool) string {
	var (
		dns       *net.DNSError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &dns):
		return "check the host name and the resolver"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is the server running, and are host and port right?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route: check the address and the network"
	case errors.Is(err, fs.ErrNotExist):
		return "no such socket: check the path and the server's unixsocket setting"
	case errors.Is(err, fs.ErrPermission):
		return "not allowed: check the permissions of the socket (unixsocketperm) or the firewall"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "no file descriptors left: raise the limit (ulimit -n)"
	case errors.As(err, &authority):
		return "the certificate's authority is not known: set tls.ca_file to the PEM file of the authority"
	case errors.As(err, &host):
		return "the certificate is for another name: set tls.server_name to one that it holds"
	case errors.As(err, &invalid):
		return "the certificate is not valid: renew it, or check this machine's clock"
	case errors.As(err, &record):
		return "the port does not speak TLS: use redis:// or the server's TLS port"
	case errors.As(err, &alert):
		return "the server refused the handshake: does it want a client certificate (tls.cert_file, tls.key_file)?"
	case handshake && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)):
		return "the server hung up: perhaps the port speaks plain Redis, then use redis:// or the server's TLS port"
	}
	return ""
}
