// Package fleet is where the sidecars of one migration meet: who there is, and what the one that coordinates says to the others.
// It owns the words of a switch, the heartbeats, and the control keys on the target that hold them; package etcd is the other place.
// It never decides where commands go: a word is a hint, the truth is the migration's record.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/router"
)

// Protocol is the number of what the sidecars of this version understand of each other. One
// that has another number is not switched together with.
const Protocol = 1

// Stage is what the members are to do.
type Stage string

// The stages of a switch, in order. Release comes behind each of them: there may be none
// in between.
const (
	Prepare Stage = "prepare" // connect to the other side; nobody waits yet
	Hold    Stage = "hold"    // let no command through
	Align   Stage = "align"   // have subscribers hear the other side: nobody writes any more
	Release Stage = "release" // find out where commands go, and let them go on
)

// Word is what a coordinator says to all members.
type Word struct {
	By    string      `json:"by"`    // the process that says it
	Seq   uint64      `json:"seq"`   // rises with each word of that process
	Token uint64      `json:"token"` // of its record: one with an older token is not listened to
	Stage Stage       `json:"stage"`
	To    router.Side `json:"to"`    // where the switch leads; of Release: where commands go
	Epoch uint64      `json:"epoch"` // of the route that it leads to, or that commands go by
	// Members is how many were known to be alive when it was said, so that many do not ask for
	// the next word as often as a few may. 0: few.
	Members int `json:"members,omitempty"`
	// Aligned are, of Release behind a switch, the members whose subscribers have heard the
	// other side since before anybody could write there.
	Aligned []string `json:"aligned,omitempty"`
}

// ID names the word among all words.
func (w Word) ID() string { return fmt.Sprintf("%s:%d", w.By, w.Seq) }

// Says reports whether there is a word at all.
func (w Word) Says() bool { return w.By != "" }

// Replaces reports whether w may be said where another word is; false without an error is
// that a later one of the same coordinator was faster. The error is ErrOld.
func (w Word) Replaces(there Word) (bool, error) {
	if there.Token > w.Token {
		return false, fmt.Errorf("%w (token %d, ours is %d)", ErrOld, there.Token, w.Token)
	}
	return there.By != w.By || there.Seq <= w.Seq, nil
}

// Member is a heartbeat: what a sidecar says of itself.
type Member struct {
	ID       string      `json:"id"`   // of the process: no other one has it
	Name     string      `json:"name"` // of the instance, for people
	Version  string      `json:"version"`
	Protocol int         `json:"protocol"`
	State    State       `json:"state"`
	Side     router.Side `json:"side"` // where its clients' commands go
	Epoch    uint64      `json:"epoch"`
	Token    uint64      `json:"token"`     // the highest one that it has seen in the record
	Inside   int64       `json:"in_flight"` // commands
	Commands int64       `json:"commands"`  // that were forwarded, since it started
	Beat     uint64      `json:"beat"`      // rises with each heartbeat: no clock is compared
	// Lives is what the store says of it, by a lease: its heart beats, although the beat that
	// stands there may be an older one. A store that knows of no leases never says so.
	Lives bool `json:"-"`
}

// ReadMember reads what a member has said of itself, as JSON. One of a version that says it in
// other words is a member all the same: its Protocol is 0.
func ReadMember(id string, text []byte) Member {
	var m Member
	if err := json.Unmarshal(text, &m); err != nil || m.ID != id {
		return Member{ID: id, Name: id}
	}
	return m
}

// SortMembers sorts by name.
func SortMembers(list []Member) {
	slices.SortFunc(list, func(a, b Member) int {
		return strings.Compare(a.Name+"\x00"+a.ID, b.Name+"\x00"+b.ID)
	})
}

// State is what a member does with its clients' commands.
type State string

// The states of a member.
const (
	Starting State = "starting" // it has not read the truth yet: nobody is served
	Open     State = "open"
	Held     State = "held"    // a switch is under way
	Waiting  State = "waiting" // held, and whoever coordinates has said nothing for too long
)

// Answer is what a member has made of a word.
type Answer struct {
	Word   string `json:"word"` // its ID
	Failed string `json:"failed,omitempty"`
}

// ErrOld means that somebody with a newer token has spoken: this coordinator's words count no more.
var ErrOld = errors.New("a newer coordinator speaks to the fleet")

// Store is where they meet. All methods may be called concurrently; what they return of
// others may be some milliseconds old. Nothing that it loses makes a switch unsafe.
type Store interface {
	// Say makes w the present word and wakes those who listen. One with a higher token
	// that is there is left alone (ErrOld). It may be repeated.
	Say(ctx context.Context, w Word) error
	// Heard returns the present word; the zero value where there is none.
	Heard(ctx context.Context) (Word, error)
	// Listen calls woken once it listens and then after each word, until ctx ends or the
	// store is lost: the error says so. Words may be lost: who listens asks for them, too.
	Listen(ctx context.Context, woken func()) error
	// Beat keeps what a member says of itself, in place of what it said before. Counts alone
	// may be kept later.
	Beat(ctx context.Context, m Member) error
	// Members returns what all have said last, the dead among them.
	Members(ctx context.Context) ([]Member, error)
	// Leave forgets members, and what they have answered.
	Leave(ctx context.Context, ids ...string) error
	// Answer keeps what a member has made of a word, in place of its answer before.
	Answer(ctx context.Context, id string, a Answer) error
	// Answers returns the newest answer of each of these members that has given one.
	Answers(ctx context.Context, ids []string) (map[string]Answer, error)
	// Clear removes all of it.
	Clear(ctx context.Context) error
	// Close ends the connections that are the store's own. What is there stays.
	Close() error
}
