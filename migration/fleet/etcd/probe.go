package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Probed is what was found at one member of the etcd.
type Probed struct {
	Address string
	Version string // as it says it
	Err     error  // it does not answer, or is no etcd of a version that will do
}

// Probe asks each member who it is, and proves that keys below the prefix may be written,
// read and removed: the error is why not.
func (s *Store) Probe(ctx context.Context) ([]Probed, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return nil, s.failed("connecting to", err)
	}
	all := make([]Probed, len(s.at.Addresses))
	var asking sync.WaitGroup
	for i, address := range s.at.Addresses {
		asking.Go(func() { all[i] = probe(ctx, c, address) })
	}
	err = s.prove(ctx, c)
	asking.Wait()
	return all, s.failed("writing to", err)
}

func probe(ctx context.Context, c *clientv3.Client, address string) Probed {
	p := Probed{Address: address}
	got, err := c.Status(ctx, address)
	if err != nil {
		p.Err = brief(err)
		return p
	}
	p.Version = got.Version
	if !willDo(got.Version) {
		p.Err = fmt.Errorf("it is version %q, and has to be 3.4 or later", got.Version)
	}
	return p
}

// willDo reports whether a version knows all that is asked of it: signs of life of a watch are
// what came last.
func willDo(version string) bool {
	var major, minor int
	n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return n == 2 && major == 3 && minor >= 4
}

// probeFor is for how many seconds a probe stays, should nobody come to remove it.
const probeFor = 10

func (s *Store) prove(ctx context.Context, c *clientv3.Client) error {
	lease, err := c.Grant(ctx, probeFor)
	if err != nil {
		return err
	}
	key := s.at.Prefix + probeKey + rand.Text()
	if _, err = c.Put(ctx, key, key, clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	got, err := c.Get(ctx, key)
	if err == nil && (len(got.Kvs) != 1 || string(got.Kvs[0].Value) != key) {
		err = errors.New("what was written is not there")
	}
	if err != nil {
		return err
	}
	_, err = c.Revoke(ctx, lease.ID) // and the key with it
	if err == nil {
		_, err = c.Delete(ctx, key)
	}
	return err
}
