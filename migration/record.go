package migration

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// Record is all that must survive a crash. It is written to the state file, to
// the control record on the server that is entered and, as the journal, to the
// server that is left. It holds no secret in the clear.
type Record struct {
	ID    string `json:"id"`
	Token uint64 `json:"token"` // of the coordinator: rises with each start and each attempt
	Seq   uint64 `json:"seq"`   // rises with each transition

	Phase Phase       `json:"phase"`
	Side  router.Side `json:"side"`  // where the applications' commands go
	Epoch uint64      `json:"epoch"` // rises with each switch, there or back

	// Switch says from where to where a switch under way goes.
	Switch *Switch `json:"switch,omitempty"`

	Source   string               `json:"source"` // addresses, without secrets
	Target   string               `json:"target"`
	Map      map[int]router.Place `json:"map"`
	LeaveOut []int                `json:"leave_out,omitempty"`
	// TargetDatabases is how many the target has; 0: not known.
	TargetDatabases int `json:"target_databases,omitempty"`
	// Libraries says whose the function libraries on the target are. nil: an older version
	// has begun, and took all for ours.
	Libraries mirror.Libraries `json:"libraries"`

	Servers [2]Kept `json:"servers"` // by router.Side: what to put back
	// Former are servers that a failover has left behind with what we changed there, and
	// replicas that are fenced with their master.
	Former []Former `json:"former,omitempty"`
	// Sealed is the password of our own user, encrypted with a key that only
	// the operator's credentials give.
	Sealed string `json:"sealed,omitempty"`
	// Copied says that the target's keys are ours: a scan was begun.
	Copied bool `json:"copied"`

	// Appointment is a switch that waits for its moment, Dropped the last one that was
	// not kept, until another switch is asked for.
	Appointment *Appointment `json:"appointment,omitempty"`
	Dropped     *Dropped     `json:"dropped,omitempty"`

	// Ousted is in the state file alone, of a process that must not go on.
	Ousted *Ousted `json:"ousted,omitempty"`

	// Meets is where the one that copies meets other sidecars, see meetsIn.
	Meets string `json:"meets,omitempty"`

	LastCutover *Report   `json:"last_cutover,omitempty"`
	Updated     time.Time `json:"updated"`
}

// Switch is one attempt to move the traffic.
type Switch struct {
	From router.Side `json:"from"`
	To   router.Side `json:"to"`
	// Token is the attempt's; whoever finishes it has a newer one.
	Token uint64 `json:"token,omitempty"`
	// Run is the run id of the server that is left: its fence is that process's. "" while
	// it is not known.
	Run string `json:"run,omitempty"`
	// Marks are slots of the entered cluster, one of each master, in which the marks are
	// that are written behind the last copies.
	Marks []uint16 `json:"marks,omitempty"`
}

// Kept is what we changed on one server and must put back.
type Kept struct {
	// At is the server's address, where sentinels say what that is; "" elsewhere.
	At string `json:"at,omitempty"`
	// Notify is notify-keyspace-events as we found it; nil: not changed by us.
	Notify *string `json:"notify,omitempty"`
	// User says that we created our ACL user there.
	User bool `json:"user,omitempty"`
	// Fence is the fence that was raised or is about to be; nil: none.
	Fence *FenceState `json:"fence,omitempty"`
	// Lowered is the last fence that fell there because the server was entered, see savedfence.go.
	Lowered *FenceState `json:"lowered,omitempty"`
}

func (r Record) entry() (store.Entry, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return store.Entry{}, fmt.Errorf("encoding the record: %w", err)
	}
	return store.Entry{ID: r.ID, Token: r.Token, Seq: r.Seq, Data: data}, nil
}

// databases returns the map.
func (r Record) databases() (router.DBMap, error) {
	dm, err := router.NewDBMap(r.Map)
	return dm.Within(r.TargetDatabases), err
}

func decode(e store.Entry) (Record, error) {
	var r Record
	if err := json.Unmarshal(e.Data, &r); err != nil {
		return Record{}, fmt.Errorf("decoding the record of migration %s: %w", e.ID, err)
	}
	return r, nil
}

// clone returns a copy that shares nothing that is changed in place.
func (r Record) clone() Record {
	for i := range r.Servers {
		if f := r.Servers[i].Fence; f != nil {
			c := *f
			r.Servers[i].Fence = &c
		}
	}
	if r.Switch != nil {
		s := *r.Switch
		r.Switch = &s
	}
	return r
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// seal encrypts text so that it can be written to a server: only who knows the
// operator's two passwords can open it.
func seal(text string, passwords [2]string) (string, error) {
	aead, err := sealer(passwords)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce)
	return hex.EncodeToString(aead.Seal(nonce, nonce, []byte(text), nil)), nil
}

func unseal(sealed string, passwords [2]string) (string, error) {
	aead, err := sealer(passwords)
	if err != nil {
		return "", err
	}
	raw, err := hex.DecodeString(sealed)
	if err != nil || len(raw) < aead.NonceSize() {
		return "", errors.New("opening the password of our user: the record is damaged")
	}
	text, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], nil)
	if err != nil {
		return "", errors.New("opening the password of our user: it was sealed with other credentials; start with the same source and target passwords as before")
	}
	return string(text), nil
}

func sealer(passwords [2]string) (cipher.AEAD, error) {
	secret, err := json.Marshal(passwords)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "crossfade user password", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
