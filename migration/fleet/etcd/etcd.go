// Package etcd has the sidecars of a migration meet in an etcd.
// It owns the keys there, the leases under which they stand, and the one client that reaches it.
// It never decides where commands go, and nothing that etcd loses makes a switch unsafe.
package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/status"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/fleet"
)

const (
	reconnectMost = 2 * time.Second // between two attempts to connect to a member that is away
	attempts      = 3               // of one request
	tokenTime     = 2 * time.Second // to log in, and until a first renewal of a lease is due
)

var errClosed = errors.New("we have closed our connections to it")

// Store is the meeting place of one migration. All methods may be called concurrently. It
// connects when it is used first.
type Store struct {
	at      config.Meeting
	id      func() string // of the migration; "" while it is not known
	timeout time.Duration // of one request, where the caller has more patience

	opening chan struct{} // held while a client is made; guards the two that follow
	client  *clientv3.Client
	closed  bool

	leases leases
	hears  hearing
}

var _ fleet.Store = (*Store)(nil)

// gRPC says on standard error what it makes of connections. What is wrong with them our
// callers are told; the rest is for who asks for it.
func init() {
	if os.Getenv("GRPC_GO_LOG_SEVERITY_LEVEL") == "" {
		grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	}
}

// New returns the meeting place of the migration whose id is asked for each time. No request
// takes longer than timeout.
func New(at config.Meeting, id func() string, timeout time.Duration) *Store {
	s := &Store{at: at, id: id, timeout: timeout, opening: make(chan struct{}, 1)}
	s.leases.beating = make(chan struct{}, 1)
	s.leases.of = make(map[string]*presence)
	return s
}

// String names the etcd, without secrets.
func (s *Store) String() string { return s.at.String() }

// connect returns the client, which connects by itself whenever it has to.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	select {
	case s.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.opening }()
	switch {
	case s.closed:
		return nil, errClosed
	case s.client != nil:
		return s.client, nil
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: s.at.Addresses, Username: s.at.Username, Password: s.at.Password,
		Logger: zap.NewNop(), MaxUnaryRetries: attempts,
		DialTimeout: tokenTime, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		DialOptions: s.dialOptions(),
	})
	if err != nil {
		return nil, err
	}
	s.client = c
	return c, nil
}

func (s *Store) dialOptions() []grpc.DialOption {
	options := []grpc.DialOption{
		grpc.WithContextDialer(dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMost},
			MinConnectTimeout: s.timeout,
		}),
		grpc.WithChainUnaryInterceptor(failFast),
	}
	if s.at.ClientTLS() != nil {
		options = append(options, grpc.WithTransportCredentials(followed{s.at.ClientTLS}))
	}
	return options
}

// failFast has a request fail while nobody is connected. etcd's own client waits for the
// connection, and clients of ours may wait for the request.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// dial connects to a member; no proxy of the environment is asked.
func dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// Close ends the connections.
func (s *Store) Close() error {
	s.opening <- struct{}{}
	defer func() { <-s.opening }()
	s.closed = true
	if s.client == nil {
		return nil
	}
	err := s.client.Close()
	s.client = nil
	if errors.Is(err, context.Canceled) { // what it always says
		return nil
	}
	return err
}

// base begins the keys of the migration.
func (s *Store) base() (string, error) {
	id := s.id()
	if id == "" {
		return "", errors.New("the migration is not known yet")
	}
	return s.at.Prefix + id + "/", nil
}

// The keys of a migration, behind its base.
const (
	wordKey    = "word"
	membersKey = "members/" // and the id of one
	aliveKey   = "alive/"
	answersKey = "answers/"
	probeKey   = "probe/" // of no migration: behind the prefix
)

// with runs one request of ours within its time, and says what it was about when it fails.
func (s *Store) with(ctx context.Context, doing string, do func(ctx context.Context, c *clientv3.Client, base string) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	base, err := s.base()
	var c *clientv3.Client
	if err == nil {
		c, err = s.connect(ctx)
	}
	if err == nil {
		err = do(ctx, c, base)
	}
	return s.failed(doing, err)
}

// failed says what went wrong, in fewer words than gRPC does.
func (s *Store) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", doing, s.at, brief(err))
}

// brief is what gRPC says without its own words.
func brief(err error) error {
	if st, is := status.FromError(err); is {
		err = errors.New(st.Message())
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("it does not answer: %w", err)
	}
	return err
}

// Members implements fleet.Store. Both kinds of keys are of one moment.
func (s *Store) Members(ctx context.Context) (list []fleet.Member, err error) {
	err = s.with(ctx, "reading heartbeats in", func(ctx context.Context, c *clientv3.Client, base string) error {
		got, err := c.Txn(ctx).Then(
			clientv3.OpGet(base+membersKey, clientv3.WithPrefix()),
			clientv3.OpGet(base+aliveKey, clientv3.WithPrefix(), clientv3.WithKeysOnly()),
		).Commit()
		if err != nil {
			return err
		}
		lives := make(map[string]bool)
		for _, kv := range got.Responses[1].GetResponseRange().Kvs {
			lives[string(kv.Key[len(base+aliveKey):])] = true
		}
		list = []fleet.Member{}
		for _, kv := range got.Responses[0].GetResponseRange().Kvs {
			m := fleet.ReadMember(string(kv.Key[len(base+membersKey):]), kv.Value)
			m.Lives = lives[m.ID]
			list = append(list, m)
		}
		fleet.SortMembers(list)
		return nil
	})
	return list, err
}

// Answer implements fleet.Store.
func (s *Store) Answer(ctx context.Context, id string, a fleet.Answer) error {
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("writing an answer: %w", err)
	}
	return s.with(ctx, "answering in", func(ctx context.Context, c *clientv3.Client, base string) error {
		s.leases.comes(id)
		return s.leases.keep(ctx, c, func(lease clientv3.LeaseID) error {
			_, err := c.Put(ctx, base+answersKey+id, string(text), clientv3.WithLease(lease))
			return err
		})
	})
}

// Answers implements fleet.Store.
func (s *Store) Answers(ctx context.Context, ids []string) (map[string]fleet.Answer, error) {
	out := make(map[string]fleet.Answer, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	err := s.with(ctx, "reading answers in", func(ctx context.Context, c *clientv3.Client, base string) error {
		got, err := c.Get(ctx, base+answersKey, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		all := make(map[string][]byte, len(got.Kvs))
		for _, kv := range got.Kvs {
			all[string(kv.Key[len(base+answersKey):])] = kv.Value
		}
		for _, id := range ids {
			var a fleet.Answer
			if text, there := all[id]; there && json.Unmarshal(text, &a) == nil {
				out[id] = a
			}
		}
		return nil
	})
	return out, err
}

// Clear implements fleet.Store.
func (s *Store) Clear(ctx context.Context) error {
	return s.with(ctx, "removing the fleet's keys from", func(ctx context.Context, c *clientv3.Client, base string) error {
		_, err := c.Delete(ctx, base, clientv3.WithPrefix())
		if err == nil {
			s.hears.forget()
			s.leases.forget()
		}
		return err
	})
}
