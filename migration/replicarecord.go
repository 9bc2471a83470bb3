package migration

import (
	"slices"
	"strings"

	"github.com/crossfade/crossfade/router"
)

// kept returns what was changed on another server of a side.
func (r Record) kept(side router.Side, address string) (k Kept, ok bool) {
	for _, f := range r.Former {
		if f.Side == side && f.Address == address {
			return f.Kept, true
		}
	}
	return Kept{}, false
}

// aliasOf returns the address under which a process is known as another server of a side, ""
// where it is not.
func (r Record) aliasOf(side router.Side, run string) string {
	for _, f := range r.Former {
		if f.Side == side && run != "" && f.Run == run {
			return f.Address
		}
	}
	return ""
}

// keep notes what is changed on another server of a side, and which process that is.
func (r *Record) keep(side router.Side, address, run string, change func(*Kept)) {
	r.Former = slices.Clone(r.Former) // never changed in place: records share it
	for i, f := range r.Former {
		if f.Side == side && f.Address == address {
			r.Former[i].Run = run
			change(&r.Former[i].Kept)
			return
		}
	}
	f := Former{Side: side, Address: address, Run: run, Replica: true}
	change(&f.Kept)
	r.Former = append(r.Former, f)
}

// announceReplicas notes that the fences may be up.
func (r *Record) announceReplicas(side router.Side) {
	r.Former = slices.Clone(r.Former)
	for i, f := range r.Former {
		if f.Side != side || f.Kept.Fence == nil {
			continue
		}
		up := *f.Kept.Fence
		up.Raised = true
		r.Former[i].Kept.Fence = &up
	}
}

// fencesReplicas reports whether a level is more than its own server's affair.
func (l FenceLevel) fencesReplicas() bool { return l == FenceACL || l == FenceReplicas }

// staysFenced reports whether a side was left and is fenced.
func (r Record) staysFenced(side router.Side) bool {
	f := r.Servers[side].Fence
	return side != r.Side && f != nil && f.Raised && f.Level.fencesReplicas() && !r.Phase.Ended()
}

// ReplicaStatus is another server of a side on which there is something of ours, or should be.
type ReplicaStatus struct {
	Side    router.Side `json:"side"`
	Address string      `json:"address"`
	Fence   string      `json:"fence"`             // level of the fence that is up there, or ""
	Problem string      `json:"problem,omitempty"` // why it has not the fence of its master
}

// replicaStatus lists them.
func (m *Migration) replicaStatus(r Record) []ReplicaStatus {
	out := []ReplicaStatus{}
	m.others.mu.Lock()
	defer m.others.mu.Unlock()
	named := [2]map[string]bool{{}, {}}
	for _, f := range r.Former {
		s := ReplicaStatus{Side: f.Side, Address: f.Address, Problem: m.others.unfenced[f.Side][f.Address].why}
		if st := f.Kept.Fence; st != nil && st.Raised && s.Problem == "" {
			s.Fence = string(st.Level)
		} else if st != nil && s.Problem == "" {
			s.Problem = strings.Join(st.denied(f.Address), "; ")
		}
		named[f.Side][f.Address] = true
		out = append(out, s)
	}
	for side, list := range m.others.unfenced {
		for address, u := range list {
			if !named[side][address] {
				out = append(out, ReplicaStatus{Side: router.Side(side), Address: address, Problem: u.why})
			}
		}
	}
	slices.SortFunc(out, func(a, b ReplicaStatus) int { return strings.Compare(a.Address, b.Address) })
	return out
}
