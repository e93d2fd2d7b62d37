package places

import "net"

// Abort closes a connection so that the kernel forgets it at once, and does not keep it to
// deliver what was written.
func Abort(conn net.Conn) {
	SetAbort(conn)
	_ = conn.Close()
}

// SetAbort makes the next Close of a connection an Abort.
func SetAbort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}
