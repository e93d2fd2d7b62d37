//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// registerInput is a read, or a write of a value.
type registerInput struct {
	write bool
	value int
}

// register is one value that is read and written.
var register = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		in := input.(registerInput)
		if in.write {
			return true, in.value
		}
		return output.(int) == state.(int), state
	},
}

// Reads and writes through all hosts stay linearizable while the leader's agent
// is killed again and again.
func TestReadsAndWritesStayLinearizable(t *testing.T) {
	const (
		clients  = 6
		duration = 25 * time.Second
		interval = 6 * time.Second
	)
	ns := namespace(t, "host1")
	waitWhole(t)
	first := connect(t, "host1")
	if _, err := first.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "register"}, Data: map[string]string{"value": "0"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	history := &history{start: time.Now()}
	var next atomic.Int64
	stop := time.Now().Add(duration)
	var workers sync.WaitGroup
	for id := range clients {
		a := connect(t, fmt.Sprintf("host%d", id%hosts+1))
		workers.Go(func() {
			for time.Now().Before(stop) {
				if next.Load()%2 == int64(id%2) {
					history.write(t, a, ns, id, int(next.Add(1)))
				} else {
					history.read(t, a, ns, id)
					next.Add(1)
				}
			}
		})
	}
	for time.Until(stop) > interval {
		time.Sleep(interval)
		if status, err := meshStatus(t, t.Context(), "host1"); err == nil && status.Leader != "" {
			killAgent(t, status.Leader)
		}
	}
	workers.Wait()
	done := history.finished()
	if result := porcupine.CheckOperationsTimeout(register, done, time.Minute); result != porcupine.Ok {
		t.Errorf("the history of %d operations is %s", len(done), result)
	}
	t.Logf("%d operations, %d of unknown outcome", len(done), history.unknown)
	waitWhole(t)
}

// pauseAfterFailure keeps the clients of a dead agent from filling the history
// with failures, which make it exponentially harder to check.
const pauseAfterFailure = 250 * time.Millisecond

// history gathers operations. Its methods may be called at once.
type history struct {
	start time.Time

	mu         sync.Mutex
	operations []porcupine.Operation
	open       []porcupine.Operation
	unknown    int
}

func (h *history) now() int64 { return int64(time.Since(h.start)) }

func (h *history) write(t *testing.T, a api, ns string, client, value int) {
	op := porcupine.Operation{ClientId: client, Input: registerInput{write: true, value: value}, Call: h.now(), Output: 0}
	patch := fmt.Sprintf(`{"data":{"value":"%d"}}`, value)
	_, err := a.CoreV1().ConfigMaps(ns).Patch(t.Context(), "register", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	op.Return = h.now()
	if utilnet.IsConnectionRefused(err) {
		// Nobody was there to take the write.
		time.Sleep(pauseAfterFailure)
		return
	}
	if err != nil {
		time.Sleep(pauseAfterFailure)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.unknown++
		h.open = append(h.open, op)
		return
	}
	h.operations = append(h.operations, op)
}

func (h *history) read(t *testing.T, a api, ns string, client int) {
	op := porcupine.Operation{ClientId: client, Input: registerInput{}, Call: h.now()}
	config, err := a.CoreV1().ConfigMaps(ns).Get(t.Context(), "register", metav1.GetOptions{})
	if err != nil {
		// A read that failed says nothing about the state.
		time.Sleep(pauseAfterFailure)
		return
	}
	op.Return = h.now()
	value, err := strconv.Atoi(config.Data["value"])
	if err != nil {
		t.Errorf("the register holds %q", config.Data["value"])
		return
	}
	op.Output = value
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, op)
}

// finished closes the operations of unknown outcome, each a write of a value of
// its own. One that somebody read took effect before that read ended. One that
// nobody read may as well come after everything else, where it says nothing. To
// leave them open until the end would mean the same, and make the history
// exponentially harder to check. Their clients went on, so they get clients of
// their own.
func (h *history) finished() []porcupine.Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[int]int64{} // by value, the end of the first read of it
	for _, op := range h.operations {
		if value := op.Output.(int); !op.Input.(registerInput).write && (seen[value] == 0 || op.Return < seen[value]) {
			seen[value] = op.Return
		}
	}
	all := h.operations
	for i, op := range h.open {
		end, ok := seen[op.Input.(registerInput).value]
		if !ok {
			continue
		}
		op.ClientId, op.Return = 1000+i, end
		all = append(all, op)
	}
	return all
}
