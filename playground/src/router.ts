/** The views and their addresses; the server knows the same (`api/playground.py`). */

import { createRouter, createWebHistory } from "vue-router";

import TaskList from "@/views/TaskList.vue";

export const router = createRouter({
  history: createWebHistory(),
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
  routes: [
    { path: "/", name: "tasks", component: TaskList },
    { path: "/new", name: "new", component: () => import("@/views/NewTask.vue") },
    { path: "/tasks/:id", name: "task", component: () => import("@/views/TaskView.vue"), props: true },
    { path: "/sandboxes", name: "sandboxes", component: () => import("@/views/SandboxList.vue") },
    { path: "/:rest(.*)", name: "nowhere", component: () => import("@/views/NotFound.vue") },
  ],
});
