// Package etcdtest runs etcd's own embedded server for tests, one member on loopback ports.
// It owns the servers that it starts, their folders and ports; all of them end with the test.
// It never leaves the loopback interface, and its servers say nothing on standard error.
package etcdtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Server is an etcd of one member. Its address and its data stay over Stop and Start. Its
// methods are called by one goroutine at a time.
type Server struct {
	tb             testing.TB
	dir            string
	clients, peers string // HOST:PORT
	tls            *transport.TLSInfo
	running        *embed.Etcd
}

// startWait is how long a server may take to be ready, on a machine that is busy.
const startWait = time.Minute

// Start starts a server, and ends it with the test. tls, which may be nil, is for clients.
func Start(tb testing.TB, tls *transport.TLSInfo) *Server {
	tb.Helper()
	s := &Server{tb: tb, dir: tb.TempDir(), tls: tls}
	tb.Cleanup(s.Stop)
	var err error
	for range 10 { // a port that was free may be taken meanwhile
		s.clients, s.peers = freeAddr(tb), freeAddr(tb)
		if err = s.start(); err == nil || !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Addr is where clients connect, HOST:PORT.
func (s *Server) Addr() string { return s.clients }

// Start starts it again, where it was.
func (s *Server) Start() {
	s.tb.Helper()
	if err := s.start(); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *Server) start() error {
	c := embed.NewConfig()
	c.Dir = s.dir
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.UnsafeNoFsync = true // a machine that dies takes the test with it
	c.TickMs, c.ElectionMs = 10, 100
	scheme := "http"
	if s.tls != nil {
		scheme, c.ClientTLSInfo = "https", *s.tls
	}
	c.ListenClientUrls = []url.URL{{Scheme: scheme, Host: s.clients}}
	c.ListenPeerUrls = []url.URL{{Scheme: "http", Host: s.peers}}
	c.AdvertiseClientUrls, c.AdvertisePeerUrls = c.ListenClientUrls, c.ListenPeerUrls
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	e, err := embed.StartEtcd(c)
	if err != nil {
		return fmt.Errorf("start etcd at %s: %w", s.clients, err)
	}
	s.running = e
	select {
	case <-e.Server.ReadyNotify():
		return nil
	case err = <-e.Err():
	case <-time.After(startWait):
		err = fmt.Errorf("not ready after %v", startWait)
	}
	s.Stop()
	return fmt.Errorf("start etcd at %s: %w", s.clients, err)
}

// Stop ends it. Those who are connected and watch it waits for, for some seconds: cut them off
// before, with a link. It may be repeated.
func (s *Server) Stop() {
	if s.running == nil {
		return
	}
	s.running.Close()
	s.running = nil
}

// Client returns connections of the test's own, to look and to change.
func (s *Server) Client() *clientv3.Client {
	s.tb.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.clients}, Logger: zap.NewNop(), DialTimeout: startWait})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Keys returns the names of all keys.
func (s *Server) Keys() []string {
	s.tb.Helper()
	c := s.Client()
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	got, err := c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		s.tb.Fatal(err)
	}
	keys := make([]string, len(got.Kvs))
	for i, kv := range got.Kvs {
		keys[i] = string(kv.Key)
	}
	return keys
}
