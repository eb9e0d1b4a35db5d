/** The views and their addresses; the server knows the same (`api/playground.py`). */

import { createRouter, createWebHistory } from "vue-router";

import NewTask from "@/views/NewTask.vue";
import NotFound from "@/views/NotFound.vue";
import SandboxList from "@/views/SandboxList.vue";
import TaskList from "@/views/TaskList.vue";
import TaskView from "@/views/TaskView.vue";

// All in one piece: a part that is fetched later is gone from the server once a newer version is deployed.
export const router = createRouter({
  history: createWebHistory(),
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
  routes: [
    { path: "/", name: "tasks", component: TaskList },
    { path: "/new", name: "new", component: NewTask },
    { path: "/tasks/:id", name: "task", component: TaskView, props: true },
    { path: "/sandboxes", name: "sandboxes", component: SandboxList },
    { path: "/:rest(.*)", name: "nowhere", component: NotFound },
  ],
});
