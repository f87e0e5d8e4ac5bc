package lxd
import (_ "github.com/canonical/lxd/client"; _ "github.com/gorilla/websocket")
