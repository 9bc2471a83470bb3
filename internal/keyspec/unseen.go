package keyspec

// unseen are commands of servers that the table was not made from, with as few words as
// say where their keys are.
var unseen = []Command{
	// Redis 8.2
	{Name: "xackdel", Arity: -2, Flags: "fast write", Specs: []Spec{{Use: RW | Update | Delete, Begin: Begin{At: 1}, Find: Find{Step: 1}}}},
	{Name: "xdelex", Arity: -2, Flags: "fast write", Specs: []Spec{{Use: RW | Delete, Begin: Begin{At: 1}, Find: Find{Step: 1}}}},
	// Redis 8.4
	{Name: "delex", Arity: -2, Flags: "fast write", Specs: []Spec{{Use: RM | Delete, Begin: Begin{At: 1}, Find: Find{Step: 1}}}},
	{Name: "digest", Arity: -2, Flags: "fast readonly", Specs: []Spec{{Use: RO | Access, Begin: Begin{At: 1}, Find: Find{Step: 1}}}},
}
