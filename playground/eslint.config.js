import prettier from "eslint-config-prettier/flat";
import vue from "eslint-plugin-vue";
import accessibility from "eslint-plugin-vuejs-accessibility";
import { defineConfigWithVueTs, vueTsConfigs } from "@vue/eslint-config-typescript";

export default defineConfigWithVueTs(
  { ignores: ["src/api/schema.d.ts"] },
  vue.configs["flat/recommended"],
  vueTsConfigs.recommendedTypeChecked,
  accessibility.configs["flat/recommended"],
  prettier,
  {
    rules: {
      "vue/multi-word-component-names": "off",
      // A label may stand around its control or name it.
      "vuejs-accessibility/label-has-for": ["error", { required: { some: ["nesting", "id"] } }],
      "@typescript-eslint/unbound-method": "off", // vue-i18n means its functions to be taken apart
    },
  },
);
