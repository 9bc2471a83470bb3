package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// followed is TLS by the certificates of the moment at which a connection is made.
type followed struct{ settings func() *tls.Config }

var _ credentials.TransportCredentials = followed{}

// ClientHandshake implements credentials.TransportCredentials.
func (f followed) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(f.settings()).ClientHandshake(ctx, authority, raw)
}

// ServerHandshake is for servers.
func (followed) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("we are no server")
}

// Info implements credentials.TransportCredentials.
func (f followed) Info() credentials.ProtocolInfo { return credentials.NewTLS(f.settings()).Info() }

// Clone implements credentials.TransportCredentials.
func (f followed) Clone() credentials.TransportCredentials { return f }

// OverrideServerName does nothing: the name is in the settings.
func (followed) OverrideServerName(string) error { return nil }
