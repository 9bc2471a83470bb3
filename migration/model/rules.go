package model

// Rule is a rule of the protocol that can be removed.
type Rule uint8

// The rules, by the places where they act.
const (
	SubscribeFirst Rule = iota
	GapIsRescanned
	OneCopyAtATime
	ReverseFirst
	PauseIsNoFence
	FenceFirst
	BarrierBehindFence
	AllAcks
	FenceAtJournal
	JournalFirst
	SameServer
	WaitForReplicas
	FenceOnReplicas
	Tokens
	ClaimFirst
	KillOld
	CloseClients
	NewestCounts
	NoSecondDrain
	ReplayRefusedOnly
	WholeSuffix
	AskFirst
	nRules
)

// Rules say what each rule demands, in which scenario its absence shows, and where
// the code keeps it: a file and a function of it, in backquotes.
var Rules = [nRules]struct{ Name, Says, In, Code string }{
	SubscribeFirst: {
		"subscribe before the scan",
		"Notifications are subscribed to before a scan begins.",
		"the first copy", "`sync/mirror/mirror.go` `Follow`",
	},
	GapIsRescanned: {
		"a gap is scanned again",
		"When the notification connection was lost, everything is scanned once more.",
		"there and back", "`sync/mirror/follow.go` `supervise`",
	},
	OneCopyAtATime: {
		"one copy of a key at a time",
		"A key is not sent again before its last copy was acknowledged.",
		"a switch", "`sync/dirty/set.go` `Take`",
	},
	ReverseFirst: {
		"the way back listens before the commit",
		"The entered server's notifications are subscribed to before it takes the first write.",
		"there and back", "`migration/steps.go` `prepare`",
	},
	PauseIsNoFence: {
		"the pause is no fence",
		"Nothing rests on CLIENT PAUSE, which ends by itself.",
		"a switch", "`migration/steps.go` `softFence`",
	},
	FenceFirst: {
		"the fence before the last drain",
		"The last drain begins when the fence stands.",
		"a switch", "`migration/steps.go` `hardFence`",
	},
	BarrierBehindFence: {
		"the barrier behind the fence",
		"The PING of the last drain is sent when the fence stands.",
		"a switch", "`migration/steps.go` `drainTwice`",
	},
	AllAcks: {
		"the commit behind the last answer",
		"The last drain ends when the entered server has acknowledged every copy.",
		"a switch", "`sync/mirror/mirror.go` `Freeze`",
	},
	FenceAtJournal: {
		"the journal only under the fence",
		"That the fence stands is looked at on the connection that writes the journal, so that the server cannot have restarted between.",
		"restarts", "`migration/commit.go` `journal`, `migration/settle.go` `journalAgain`; under F2, where the journal is on the entered server, `check` looks just before it, see above",
	},
	JournalFirst: {
		"the journal before the commit",
		"The journal is written before COMMITTED.",
		"failovers", "`migration/cutover.go` `walk`",
	},
	SameServer: {
		"the commit on the drained server",
		"That the entered server is the process which was drained is looked at on the connection that waits for its replicas, and on the one that writes COMMITTED; if not, who has drained it fills it again.",
		"restarts", "`migration/commit.go` `keepDrained`, `commitStep` and `refill`, `sync/mirror/run.go` `Filled`",
	},
	WaitForReplicas: {
		"WAIT",
		"What was drained, the tokens, the journal and COMMITTED are on the replicas before the next step.",
		"failovers", "`migration/store/store.go` `SaveReplicated`; a replica that lags makes an attempt end before the journal, and is only told of after it. The token waits for nothing",
	},
	FenceOnReplicas: {
		"the fence on the replicas too",
		"The fence is raised on the replicas, which do not learn of it from their master.",
		"failovers", "`migration/replicafence.go` `readyReplicas`, `migration/steps.go` `hardFence`, for those that come later `migration/replicaguard.go` `guardReplicas`. One that cannot be reached, or is not proved to be one, is named, `migration/replicas.go` `noteUnfenced`; a failover to it is found before the journal, `migration/replicafence.go` `sameMaster` and `migration/commit.go` `journal`, and after it `migration/supervise.go` `guardFence` raises the fence on the new master within a second: what clients past the proxy write there meanwhile is not kept",
	},
	Tokens: {
		"tokens",
		"Who finds a newer token than its own changes nothing any more.",
		"two coordinators", "`migration/store/store.go` `Save`, `migration/fence.go` `watch`, `lift` and `lower`. Of two that come to the same number (an attempt in `migration/steps.go` `prepare` and a restart take the next one each) `migration/store/seat.go` `TakeSeat` lets one go on",
	},
	ClaimFirst: {
		"claim, then decide",
		"Who takes over puts its token on both servers, provided that nothing has changed there since it read, before it opens a server or goes on.",
		"two coordinators", "`migration/seat.go` `sit` and `nothingNewer`, on the servers without which nothing can be decided; on the other one when the copy begins, `migration/begin.go` `start`. Behind it `migration/claim.go` `claim`",
	},
	KillOld: {
		"old connections are closed",
		"Copies of an older token, or whose answer was lost, cannot arrive any more before anything else is done.",
		"two coordinators", "`migration/seat.go` `sit`, `sync/conn/guard.go` for those that are made later, `sync/mirror/writer.go` `replaceWriter`",
	},
	CloseClients: {
		"old connections of clients are closed too",
		"What clients had left with a sidecar that was taken over from cannot arrive any more before its successor serves anybody.",
		"clients that give up", "`migration/older.go` `closeOlder`, `migration/admit.go` `Admit` for those that are made later",
	},
	NewestCounts: {
		"the newest record counts",
		"State file, record and journal are read, and the epoch never goes back.",
		"failovers", "`migration/recover.go` `newest`",
	},
	NoSecondDrain: {
		"no drain after the journal",
		"Who takes over when the journal is written copies nothing any more.",
		"two coordinators", "`migration/settle.go` `rollForward`",
	},
	ReplayRefusedOnly: {
		"only what was refused is sent again",
		"A command whose outcome is unknown is not sent again.",
		"pipelines", "nothing is sent again: the gate, `router/gate.go` `Shut`, waits until nothing is under way",
	},
	WholeSuffix: {
		"the whole pipeline or nothing",
		"A refused command is sent again only if those behind it were refused too.",
		"pipelines", "the same",
	},
	AskFirst: {
		"ask before a new connection is used",
		"A sidecar that connects to a server anew reads the control keys first, and waits while a switch is under way.",
		"restarts", "the only sidecar is the coordinator: its gate, `router/gate.go` `Shut`, lets nobody through while a switch is under way",
	},
}

// Scenario is one set of bounds.
type Scenario struct {
	Name, What string
	Quick      Bounds // some seconds
	Deep       Bounds // for the target model
}

// Scenarios are the sets of bounds in which the protocol is tried.
var Scenarios = []Scenario{
	{
		"the first copy", "The copy begins while a client of the proxy and one past it write; then a switch.",
		Bounds{Writes: 0b1001, Cold: true, Switches: 1},
		Bounds{Writes: 0b1101, Cold: true, Switches: 2, Aborts: 1},
	},
	{
		"a switch", "One coordinator, a client of the proxy, one past it; the switch may be given up, and asked for again.",
		Bounds{Writes: 0b1001, Switches: 2, Aborts: 1},
		Bounds{Writes: 0b1101, Switches: 3, Aborts: 2},
	},
	{
		"two coordinators", "A second coordinator, which has no state file, takes over at any time, whether the first is dead or only slow.",
		Bounds{Writes: 0b1001, Switches: 1, Crashes: 1, Starts: 1},
		Bounds{Writes: 0b1101, Switches: 2, Aborts: 1, Crashes: 1, Starts: 2},
	},
	{
		"failovers", "A server fails over to a replica that lacks the newest writes; the coordinator may die.",
		Bounds{Writes: 0b0001, Switches: 1, Crashes: 1, Starts: 1, Fails: 1, Replicas: true},
		Bounds{Writes: 0b1101, Switches: 2, Aborts: 1, Crashes: 1, Starts: 2, Fails: 1, Replicas: true},
	},
	{
		"restarts", "A server without replicas restarts from its disk, without the newest writes, and has forgotten the fence.",
		Bounds{Writes: 0b1001, Switches: 1, Aborts: 1, Fails: 1},
		Bounds{Writes: 0b1101, Switches: 2, Aborts: 1, Fails: 2},
	},
	{
		"restarts and crashes", "The same with a disk that loses nothing, while the coordinator may die as well.",
		Bounds{Writes: 0b1000, Switches: 1, Crashes: 1, Starts: 1, Fails: 1, Fsync: true},
		Bounds{Writes: 0b1101, Switches: 2, Aborts: 1, Crashes: 1, Starts: 2, Fails: 2, Fsync: true},
	},
	{
		"there and back", "A cutover and a rollback; a notification connection is cut.",
		Bounds{Writes: 0b0101, Switches: 2, Cuts: 1},
		Bounds{Writes: 0b0101, Switches: 3, Aborts: 1, Cuts: 1, Replies: 1},
	},
	{
		"pipelines", "A client has two commands under way at once; an answer is lost.",
		Bounds{Writes: 0b0011, Switches: 1, Aborts: 1, Replies: 1},
		Bounds{Writes: 0b1011, Switches: 2, Aborts: 1, Replies: 1},
	},
	{
		"clients that give up", "A client gives up waiting and goes on with the sidecar of a second coordinator, which takes over at any time; the first sidecar is only slow.",
		Bounds{Writes: 0b0011, Switches: 1, Starts: 1, Gives: 1},
		Bounds{Writes: 0b1011, Switches: 2, Aborts: 1, Crashes: 1, Starts: 2, Gives: 1},
	},
}

func find(name string) Scenario {
	for _, s := range Scenarios {
		if s.Name == name {
			return s
		}
	}
	panic("there is no scenario " + name)
}
