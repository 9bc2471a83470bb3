package fleet

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
)

// scriptBytes is how many bytes of scripts are kept.
const scriptBytes = 64 << 20

// scripts are the bodies that clients used last, by their digest, for nodes that do not have
// them: a replica that has taken over does not know those of its master. Safe for concurrent use.
type scripts struct {
	mu    sync.Mutex
	lru   *lru.Cache[string, string]
	bytes int
}

func newScripts(most int) (*scripts, error) {
	s := new(scripts)
	var err error
	s.lru, err = lru.NewWithEvict(most, func(_, body string) { s.bytes -= len(body) })
	return s, err
}

func (s *scripts) remember(body []byte) {
	if len(body) > scriptBytes {
		return
	}
	digest := sha1.Sum(body)
	sum := hex.EncodeToString(digest[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.lru.Get(sum); known {
		return
	}
	s.bytes += len(body)
	s.lru.Add(sum, string(body))
	for s.bytes > scriptBytes {
		s.lru.RemoveOldest()
	}
}

// body returns the script that EVALSHA names, "" where it is not known.
func (s *scripts) body(sum []byte) string {
	body, _ := s.lru.Get(string(bytes.ToLower(sum)))
	return body
}

// forget is for a SCRIPT FLUSH.
func (s *scripts) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Purge()
}
