"""How gunicorn serves the API: greenlets, since most connections are streams that wait."""

from gevent import monkey

monkey.patch_all()

worker_class = "gevent"
worker_connections = 4000
bind = "127.0.0.1:5000"
timeout = 60
graceful_timeout = 3  # open streams can be resumed anywhere
keepalive = 5
loglevel = "warning"
control_socket_disable = True  # it would make a folder in the home of whoever starts the API
