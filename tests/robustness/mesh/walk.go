package mesh

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Walk is a random series of faults and of acts of users. Which ones follow from its
// seed alone, so that a walk can be repeated; the order of what the agents then do is
// not.
type Walk struct {
	// Create and Delete act as a user, on the machine of a name. They may fail; what became
	// of it is open then.
	Create, Delete func(name string) error

	mesh     *Mesh
	rand     *rand.Rand
	machines []string
	made     int
	asked    map[string]bool // whether a machine is to exist, of those for which it is sure
}

// NewWalk returns a walk through a mesh.
func NewWalk(m *Mesh, seed uint64) *Walk {
	return &Walk{mesh: m, rand: rand.New(rand.NewPCG(seed, 0)), asked: map[string]bool{}}
}

// acts are the steps that a walk chooses from, each as often as its weight says.
func (w *Walk) acts() []weighted {
	return []weighted{
		{6, w.create},
		{3, w.delete},
		{2, w.killAgent},
		{4, w.killAgentLater},
		{2, w.losePower},
		{6, w.startAll},
		{2, w.cutHost},
		{2, w.cutOneWay},
		{2, w.split},
		{6, w.heal},
		{2, w.crashGuests},
		{2, w.failAtDisk},
		{1, w.fillDisk},
		{2, w.worsenLinks},
		{2, w.hangUp},
		{2, w.starve},
		{2, w.setClock},
		{3, w.relieve},
	}
}

type weighted struct {
	weight int
	act    func()
}

// Step takes one step and lets some time pass.
func (w *Walk) Step() {
	acts, total := w.acts(), 0
	for _, a := range acts {
		total += a.weight
	}
	n := w.rand.IntN(total)
	for _, a := range acts {
		if n -= a.weight; n < 0 {
			a.act()
			break
		}
	}
	// Half of the steps follow within a second.
	pause := time.Duration(w.rand.Int64N(int64(time.Second)))
	if w.rand.IntN(2) == 0 {
		pause = time.Duration(w.rand.Int64N(int64(2 * time.Minute)))
	}
	time.Sleep(pause)
}

// Wrong returns what is wrong with the machines that exist: what a user was told to be
// created is missing, or what a user was told to be deleted is there.
func (w *Walk) Wrong(machines []string) (wrong []string) {
	for name, want := range w.asked {
		if slices.Contains(machines, name) != want {
			wrong = append(wrong, fmt.Sprintf("%s exists: %v, and a user was told: %v", name, !want, want))
		}
	}
	return wrong
}

// End ends all faults: all links are mended, all disks have room and all agents run.
func (w *Walk) End() error {
	w.mesh.Heal()
	w.relieve()
	for _, h := range w.mesh.Hosts() {
		h.Kill() // one that would be killed at a later step
		if err := h.Start(); err != nil {
			return err
		}
	}
	return nil
}

func (w *Walk) host() *Host {
	hosts := w.mesh.Hosts()
	return hosts[w.rand.IntN(len(hosts))]
}

// traffic returns one kind of traffic or both.
func (w *Walk) traffic() []Traffic {
	return [][]Traffic{{Gossip}, {Calls}, AllTraffic()}[w.rand.IntN(3)]
}

func (w *Walk) note(format string, args ...any) { w.mesh.History.note("walk", format, args...) }

func (w *Walk) create() {
	w.made++
	name := fmt.Sprint("web", w.made)
	w.machines = append(w.machines, name)
	w.note("a user creates %s", name)
	if w.Create(name) == nil {
		w.asked[name] = true
	}
}

func (w *Walk) delete() {
	if len(w.machines) == 0 {
		return
	}
	i := w.rand.IntN(len(w.machines))
	name := w.machines[i]
	w.machines = slices.Delete(w.machines, i, i+1)
	w.note("a user deletes %s", name)
	delete(w.asked, name)
	if w.Delete(name) == nil {
		w.asked[name] = false
	}
}

func (w *Walk) killAgent() { w.host().Kill() }

func (w *Walk) killAgentLater() {
	h, steps := w.host(), 1+w.rand.IntN(40)
	h.Kill()
	w.start(h, steps)
}

func (w *Walk) losePower() { w.host().LosePower() }

func (w *Walk) startAll() {
	for _, h := range w.mesh.Hosts() {
		w.start(h, 0)
	}
}

func (w *Walk) start(h *Host, steps int) {
	if h.Running() {
		return
	}
	if err := h.StartAndKillAfter(steps); err != nil {
		w.mesh.History.fail("%v", err)
	}
}

func (w *Walk) cutHost() {
	h, traffic := w.host(), w.traffic()
	w.note("%s is cut off, traffic %v", h.Name, traffic)
	w.mesh.Cut(h.Name, traffic...)
}

func (w *Walk) cutOneWay() {
	from, to, traffic := w.host(), w.host(), w.traffic()
	w.note("what %s sends to %s is lost, traffic %v", from.Name, to.Name, traffic)
	w.mesh.CutOneWay(from.Name, to.Name, traffic...)
}

func (w *Walk) split() {
	groups := make([][]string, 2)
	for _, h := range w.mesh.Hosts() {
		i := w.rand.IntN(2)
		groups[i] = append(groups[i], h.Name)
	}
	traffic := w.traffic()
	w.note("%v and %v are split, traffic %v", groups[0], groups[1], traffic)
	w.mesh.Split(groups, traffic...)
}

func (w *Walk) heal() {
	w.note("all links are mended")
	w.mesh.Heal()
}

func (w *Walk) crashGuests() {
	h := w.host()
	w.note("the guests of %s crash", h.Name)
	for _, guest := range h.Guests() {
		if err := h.machine.Crash(guest.Owner.Ref); err != nil {
			w.note("%s: %v", guest.Owner.Ref, err)
		}
	}
}
