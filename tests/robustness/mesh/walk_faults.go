package mesh

import (
	"time"
)

// failAtDisk ends an agent or a host in the middle of what its replica stores.
func (w *Walk) failAtDisk() {
	h, step, power := w.host(), 1+w.rand.IntN(60), w.rand.IntN(2) == 0
	w.note("%s ends before step %d of its disk, by a loss of power: %v", h.Name, step, power)
	h.FailAtDisk(step, power)
}

func (w *Walk) fillDisk() { w.host().FillDisk(true) }

// worsenLinks makes the links of a host bad, some in one direction only.
func (w *Walk) worsenLinks() {
	h := w.host()
	for _, other := range w.mesh.Hosts() {
		for _, way := range [][2]string{{h.Name, other.Name}, {other.Name, h.Name}} {
			if w.rand.IntN(3) == 0 {
				continue
			}
			weather := Weather{Loss: w.rand.Float64() / 3, Duplicate: w.rand.Float64() / 3, Delay: time.Duration(w.rand.Int64N(int64(2 * time.Second)))}
			w.note("the link from %s to %s has %+v", way[0], way[1], weather)
			w.mesh.SetWeather(way[0], way[1], weather)
		}
	}
}

func (w *Walk) hangUp() {
	h := w.host()
	w.note("the connections of %s break", h.Name)
	h.HangUp()
}

func (w *Walk) starve() {
	h, late := w.host(), time.Duration(w.rand.Int64N(int64(5*time.Second)))
	w.note("%s is starved, and stands still for up to %s", h.Name, late)
	h.Starve(late)
}

// setClock sets the clock of a host, and changes its rate in half of the cases. It stays
// wrong to the end of the walk.
func (w *Walk) setClock() {
	h, ahead, faster := w.host(), time.Duration(w.rand.Int64N(int64(24*time.Hour)))-12*time.Hour, 0.
	if w.rand.IntN(2) == 0 {
		faster = w.rand.Float64()/2 - .25
	}
	h.SetClock(ahead, faster)
}

// relieve gives CPU time and room on the disks back.
func (w *Walk) relieve() {
	w.note("all hosts have CPU time and room")
	for _, h := range w.mesh.Hosts() {
		h.Starve(0)
		h.FillDisk(false)
	}
}
