package proxy

import (
	"crypto/sha1"
	"encoding/hex"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/crossfade/crossfade/internal/lua"
)

// scriptBytes is how many bytes of scripts are kept: whoever generates bodies costs no
// more than that, and a larger one is not kept at all.
const scriptBytes = 64 << 20

// scripts are the bodies that clients used last, by their digest, for the other side
// and for EVALSHA. Safe for concurrent use.
type scripts struct {
	mu    sync.Mutex
	lru   *lru.Cache[string, *script]
	bytes int
}

// script is one of them. Whether it names databases is found out when that matters first.
type script struct {
	body   string
	leaves func() bool
}

// newScripts keeps so many at most.
func newScripts(most int) (*scripts, error) {
	c := new(scripts)
	var err error
	c.lru, err = lru.NewWithEvict(most, func(_ string, s *script) { c.bytes -= len(s.body) })
	return c, err
}

func (c *scripts) remember(body []byte) {
	if len(body) > scriptBytes {
		return
	}
	sum := digestOf(body)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.lru.Get(sum); known {
		return
	}
	c.bytes += len(body)
	text := string(body)
	c.lru.Add(sum, &script{text, sync.OnceValue(func() bool { return lua.NamesDatabase([]byte(text)) })})
	for c.bytes > scriptBytes {
		c.lru.RemoveOldest()
	}
}

func digestOf(body []byte) string {
	digest := sha1.Sum(body)
	return hex.EncodeToString(digest[:])
}

// namesDatabase is lua.NamesDatabase of the script that EVALSHA names; it is false where that
// is not known.
func (c *scripts) namesDatabase(sum string) (names, known bool) {
	s, known := c.lru.Peek(sum)
	return known && s.leaves(), known
}

// forget is for a SCRIPT FLUSH.
func (c *scripts) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Purge()
}

func (c *scripts) all() []string {
	kept := c.lru.Values()
	bodies := make([]string, len(kept))
	for i, s := range kept {
		bodies[i] = s.body
	}
	return bodies
}
