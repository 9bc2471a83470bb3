package proxy

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
)

// scriptBytes is how many bytes of scripts are kept: whoever generates bodies costs no
// more than that, and a larger one is not kept at all.
const scriptBytes = 64 << 20

// scripts are the bodies that clients used last, by their digest, for the other side
// and for EVALSHA. Safe for concurrent use.
type scripts struct {
	mu    sync.Mutex
	lru   *lru.Cache[string, string]
	bytes int
}

// newScripts keeps so many at most.
func newScripts(most int) (*scripts, error) {
	c := new(scripts)
	var err error
	c.lru, err = lru.NewWithEvict(most, func(_, body string) { c.bytes -= len(body) })
	return c, err
}

func (c *scripts) remember(body []byte) {
	if len(body) > scriptBytes {
		return
	}
	digest := sha1.Sum(body)
	sum := hex.EncodeToString(digest[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.lru.Get(sum); known {
		return
	}
	c.bytes += len(body)
	c.lru.Add(sum, string(body))
	for c.bytes > scriptBytes {
		c.lru.RemoveOldest()
	}
}

// body returns the script that EVALSHA names, nil where it is not known.
func (c *scripts) body(sum []byte) []byte {
	known, _ := c.lru.Peek(string(bytes.ToLower(sum)))
	return []byte(known)
}

// forget is for a SCRIPT FLUSH.
func (c *scripts) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Purge()
}

func (c *scripts) all() []string { return c.lru.Values() }
