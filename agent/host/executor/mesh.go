package executor

import "time"

// meshTimeout bounds each read of the mesh's state and each write of it. On a host
// that is cut off every one would wait for a quorum, and hold the worker that other
// guests need.
const meshTimeout = 30 * time.Second
